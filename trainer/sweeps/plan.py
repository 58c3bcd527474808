"""A sweep's command line, read and judged: everything that can be wrong with it is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import compose
from conf.decode import encode
from conf.errors import ConfigError
from trainer import run_folder
from trainer.checks import judged, without_foreign
from trainer.config import RunConfig
from trainer.ranks import launch_environment
from trainer.secrets import redacted
from trainer.sweeps import search, space
from trainer.sweeps.comparison import compared_by
from trainer.sweeps.options import Direction, Sampler, SweepSection
from trainer.sweeps.space import Space

# What may differ when a sweep goes on.
FREE = ("n_trials", "timeout", "on_failure")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep as it was asked for, judged. ``metrics`` are what jobs are compared by, if that is known."""

    flags: Sequence[str]
    space: Space
    plugins: Sequence[str]
    config: RunConfig
    sampler: Sampler
    metrics: Mapping[str, Direction]
    folder: Path
    resume: bool

    @property
    def section(self) -> SweepSection:
        return self.config.sweep

    def request(self) -> dict[str, Any]:
        """What may not differ when the sweep goes on, without secrets."""
        given = {}
        for part in self.space.parts:
            word = redacted(part if isinstance(part, str) else part.text)
            key, _, value = word.partition("=")
            given[key.lstrip("+")] = value
        given |= {"plugins": " ".join(self.plugins)} if self.plugins else {}
        section = {key: value for key, value in encode(self.section).items() if key not in FREE}
        return {"jobs": given, "sweep": {**section, "sampler": self.sampler}}


def planned(words: Sequence[str], plugins: Sequence[str] = ()) -> Plan:
    """Read and judge a command line; nothing is written. Raises ``ConfigError``."""
    if launch_environment().world_size > 1:
        raise ConfigError("--multirun: every process of a launcher would run it; start it without one.")
    flags, overrides = compose.split(words)
    asked = space.read(overrides)
    resume, own = _resume(asked.own)
    corners = [[*flags, *asked.words(values), *own] for values in asked.corners()]
    config, given = _decoded(corners)
    sampler = _sampler(asked, config.sweep, given)
    if sampler == "grid":
        combinations = ([*flags, *asked.words(values), *own] for values in asked.grid())
        _decoded([corners[0], *(words for words in combinations if words not in corners)])
    _refuse(config)
    metrics = compared_by(config)
    if sampler != "grid" or config.sweep.prunes:
        search.refuse(asked, sampler, metrics)
    recipe = next((w.partition("=")[2] for w in overrides if w.lstrip("+").startswith("recipe=")), "run")
    if resume and config.output_dir is None:
        raise ConfigError("resume: 'auto' needs the sweep's folder; give output_dir=SWEEP as well.")
    folder = Path(config.output_dir) if config.output_dir else run_folder.default_path(f"sweep-{recipe}")
    return Plan(
        flags=flags,
        space=asked,
        plugins=[f"plugins={file}" for file in plugins],
        config=config,
        sampler=sampler,
        metrics=metrics,
        folder=run_folder.results_path(str(folder), None),
        resume=resume,
    )


def _resume(own: Sequence[str]) -> tuple[bool, list[str]]:
    """Whether the sweep goes on, and the other words about it."""
    rest = [word for word in own if not word.lstrip("+").startswith("resume=")]
    asked = [word.partition("=")[2] for word in own if word not in rest]
    if asked and asked[-1] not in ("auto", "null"):
        raise ConfigError(f"resume: {asked[-1]!r} is for one run; a sweep goes on with resume=auto.")
    return asked[-1:] == ["auto"], rest


def _sampler(asked: Space, section: SweepSection, given: Mapping[str, str]) -> Sampler:
    """What chooses the jobs; ``ConfigError`` for an option that would do nothing with it, or one missing."""
    counted = section.n_trials is not None
    ends = counted or section.timeout is not None
    sampler = section.sampler or ("tpe" if asked.endless is not None and ends else "grid")
    problems = []
    if sampler != "grid" and not ends:
        problems.append(f"sweep.n_trials: {sampler} has no end by itself; say how many jobs it is to try.")
    if sampler == "grid" and asked.endless is None:
        if counted:
            problems.append(
                "sweep.n_trials: a grid has as many jobs as there are combinations; leave it out, or search "
                "among them with sweep.sampler=tpe or random."
            )
        if "sweep.seed" in given:
            problems.append("sweep.seed: nothing is drawn in a grid; leave it out.")
    if problems:
        raise ConfigError(problems)
    return sampler


def _refuse(config: RunConfig) -> None:
    """``ConfigError`` for what is not for a sweep, or would do nothing in it."""
    if config.check:
        raise ConfigError("check: it is for one run; leave it or --multirun out.")
    if config.sweep.prunes and (config.task != "train" or config.evaluation.eval_strategy == "no"):
        raise ConfigError(
            "sweep.pruner: nothing is evaluated on the way, so no job could be ended early; set "
            "evaluation.eval_strategy, or leave it out."
        )


def _decoded(jobs: Sequence[Sequence[str]]) -> tuple[RunConfig, Mapping[str, str]]:
    """The configuration of the first of some jobs, and what was given for it.

    Raises ``ConfigError`` with the problems of all jobs, each once.
    """
    found, problems = [], dict[str, None]()
    for words in dict.fromkeys(map(tuple, jobs)):
        try:
            composed = compose.compose(words)
            if composed is None:
                raise ConfigError(
                    "--multirun: it goes with recipes and values only; leave --help and --cfg out."
                )
            data, _ = without_foreign(composed.data, composed.given)
            found.append((judged(data, composed.given), composed.given))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(problems)
    return found[0]
