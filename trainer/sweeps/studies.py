"""Optuna's objects by the names of ``sweep.*``: distributions, samplers, pruners, and the study on disk.

Optuna is imported when one of them is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conf.decode import Chosen, encode
from trainer.sweeps.ledger import drop_torn_line
from trainer.sweeps.options import Direction, Sampler
from trainer.sweeps.space import Dimension, Value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

STUDY = "study.jsonl"


def open_study(folder: Path, directions: Sequence[Direction], pruner: Chosen) -> Study:
    """The study in ``folder``, or a new one there. Nobody else may have it open."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / STUDY
    path.with_name(f"{STUDY}.lock").unlink(missing_ok=True)  # of a process that was killed
    drop_torn_line(path)
    return optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(path))),
        directions=[*directions],
        pruner=make_pruner(pruner),
        load_if_exists=True,
    )


def distribution(dimension: Dimension, *, as_choice: bool = False) -> BaseDistribution:
    """What a dimension's values are drawn from; those of a choice are texts."""
    from optuna import distributions

    if as_choice or not dimension.is_number:
        return distributions.CategoricalDistribution(dimension.choices or ())
    if dimension.is_whole:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return distributions.IntDistribution(low, high, log=dimension.log, step=step)
    return distributions.FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def make_sampler(name: Sampler, seed: int) -> BaseSampler:
    """The sampler of that name, with Optuna's defaults."""
    from optuna import samplers

    with _as_it_is():
        if name == "tpe":
            return samplers.TPESampler(seed=seed)
        if name == "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        if name == "qmc":  # a choice has no place in its sequence and is drawn by itself
            return samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        if name == "nsgaii":
            return samplers.NSGAIISampler(seed=seed)
        return samplers.RandomSampler(seed=seed)


def sampler_of(values: Mapping[str, Value]) -> BaseSampler:
    """One that gives these values."""
    from optuna import samplers

    with _as_it_is():
        return samplers.PartialFixedSampler(dict(values), samplers.RandomSampler())


def make_pruner(chosen: Chosen) -> BasePruner:
    """The pruner that a section ``sweep.pruner`` chose."""
    from optuna import pruners

    options = encode(chosen.options)
    if chosen.name == "patient":
        wrapped = chosen.options.wrapped_pruner
        inner = None if wrapped.name == "none" else make_pruner(wrapped)
        with _as_it_is():
            return pruners.PatientPruner(inner, options["patience"], min_delta=options["min_delta"])
    makers: dict[str, type[BasePruner]] = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "percentile": pruners.PercentilePruner,
        "successive_halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    return makers[chosen.name](**options)


@contextmanager
def _as_it_is() -> Iterator[None]:
    """Without the warning that a part of Optuna may change: a folder's study and its Optuna stay together."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield
