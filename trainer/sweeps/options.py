"""How a sweep chooses its jobs, compares them, ends them early and goes on after a failure.

The samplers and pruners are Optuna's, under its names and with its defaults; a grid needs no Optuna.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from conf.decode import Chosen, OneOf
from conf.plugins import Package

OPTUNA = Package("optuna", extra="optuna")
Direction = Literal["minimize", "maximize"]
Sampler = Literal["grid", "random", "tpe", "cmaes", "qmc", "nsgaii"]
# What some samplers need beside Optuna itself.
NEEDS: dict[str, Package] = {
    "cmaes": Package("cmaes", extra="optuna"),
    "qmc": Package("scipy", extra="optuna"),
}


@dataclass(frozen=True, kw_only=True)
class NoPruner:
    """Every job runs to its end."""


@dataclass(frozen=True, kw_only=True)
class MedianPruner:
    """Ends a job whose best value so far is worse than the median of all jobs at that step.

    Counts are of jobs (``n_startup_trials``, ``n_min_trials``) and of steps (``n_warmup_steps``,
    ``interval_steps``).
    """

    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1

    def __post_init__(self) -> None:
        _at_least(self, n_startup_trials=0, n_warmup_steps=0, interval_steps=1, n_min_trials=1)


@dataclass(frozen=True, kw_only=True)
class PercentilePruner(MedianPruner):
    """Ends a job whose best value so far is not among the best ``percentile`` of all jobs at that step."""

    percentile: float = 25.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.percentile <= 100:
            raise ValueError(f"percentile: from 0 to 100 is wanted, {self.percentile} was given.")


@dataclass(frozen=True, kw_only=True)
class SuccessiveHalvingPruner:
    """Lets one of ``reduction_factor`` jobs pass each rung; rungs are at growing numbers of steps.

    ``min_resource`` is the first rung in steps, ``auto`` takes it from the first job that ended.
    """

    min_resource: int | Literal["auto"] = "auto"
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0

    def __post_init__(self) -> None:
        _at_least(self, reduction_factor=2, min_early_stopping_rate=0, bootstrap_count=0)
        if self.min_resource != "auto":
            _at_least(self, min_resource=1)
        elif self.bootstrap_count:
            raise ValueError("bootstrap_count: it needs a number for min_resource, which is 'auto'.")


@dataclass(frozen=True, kw_only=True)
class HyperbandPruner:
    """Several brackets of successive halving, between ``min_resource`` and ``max_resource`` steps."""

    min_resource: int = 1
    max_resource: int | Literal["auto"] = "auto"
    reduction_factor: int = 3
    bootstrap_count: int = 0

    def __post_init__(self) -> None:
        _at_least(self, min_resource=1, reduction_factor=2, bootstrap_count=0)
        if self.max_resource != "auto":
            _at_least(self, max_resource=self.min_resource)
        elif self.bootstrap_count:
            raise ValueError("bootstrap_count: it needs a number for max_resource, which is 'auto'.")


@dataclass(frozen=True, kw_only=True)
class PatientPruner:
    """Lets another pruner, or none, end a job only after ``patience`` evaluations without improvement.

    An improvement is one by more than ``min_delta``.
    """

    patience: int
    min_delta: float = 0.0
    wrapped_pruner: Annotated[Chosen, OneOf(catalog="trainer.sweeps.options:PRUNERS", default="none")]

    def __post_init__(self) -> None:
        _at_least(self, patience=0, min_delta=0)
        if self.wrapped_pruner.name == "patient":
            raise ValueError("wrapped_pruner: it is patient itself; choose another, or none.")


PRUNERS = {
    "none": "trainer.sweeps.options:NoPruner",
    "median": "trainer.sweeps.options:MedianPruner",
    "percentile": "trainer.sweeps.options:PercentilePruner",
    "successive_halving": "trainer.sweeps.options:SuccessiveHalvingPruner",
    "hyperband": "trainer.sweeps.options:HyperbandPruner",
    "patient": "trainer.sweeps.options:PatientPruner",
}


NEVER = Chosen("none", NoPruner())


@dataclass(frozen=True, kw_only=True)
class SweepSection:
    """What ``--multirun`` does beyond a single run.

    ``sampler``: null takes the grid of all combinations, or where values have no end a tree-structured
    Parzen estimator (tpe). ``n_trials`` jobs are searched for, until ``timeout`` seconds have passed, after
    which no further job starts. ``metrics``: what is optimised, each with its direction; none takes the
    recipe's ``metric_for_best_model``, with ``direction`` or else that of ``greater_is_better``.
    """

    sampler: Sampler | None = None
    n_trials: int | None = None
    timeout: float | None = None
    seed: int = 42
    direction: Direction | None = None
    metrics: dict[str, Direction] = field(default_factory=dict)
    pruner: Annotated[Chosen, OneOf(catalog="trainer.sweeps.options:PRUNERS")] = NEVER
    on_failure: Literal["go_on", "stop"] = "go_on"

    def __post_init__(self) -> None:
        if self.n_trials is not None:
            _at_least(self, n_trials=1)
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"timeout: more than 0 seconds are wanted, {self.timeout} was given.")
        if self.direction is not None and self.metrics:
            raise ValueError("direction: metrics say theirs; leave one of them out.")
        if len(self.metrics) > 1 and self.prunes:
            raise ValueError("pruner: it needs one value to compare, and several metrics are given.")

    @property
    def prunes(self) -> bool:
        """Whether jobs may be ended early."""
        return self.pruner.name != "none"


def _at_least(options: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        if getattr(options, name) < bound:
            raise ValueError(f"{name}: at least {bound} is wanted, {getattr(options, name)} was given.")
