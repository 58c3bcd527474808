"""A search over a space with Optuna: it is asked for each job, told what came of it, and may end one early.

The study is kept in the sweep's folder, so that a killed search goes on with all that it knew.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import CheckpointError, ConfigError
from trainer.sweeps import studies
from trainer.sweeps.choosers import Job, Lines
from trainer.sweeps.jobs import Watch
from trainer.sweeps.options import NEEDS, OPTUNA, Direction, Sampler, SweepSection
from trainer.sweeps.space import Space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


class Search:
    """Asks Optuna; a trial's number is the job's.

    What a trial draws comes from ``sweep.seed`` and its number, so that a search which was killed chooses
    what it would have chosen. A grid that is pruned gives its values in order.
    """

    def __init__(
        self, space: Space, section: SweepSection, sampler: Sampler, metrics: Mapping[str, Direction]
    ):
        self.space, self.section, self.sampler, self.metrics = space, section, sampler, metrics
        self.grid = space.grid() if sampler == "grid" else []
        self.n_trials: float = len(self.grid) or section.n_trials or math.inf
        self.study: Study
        self.trials: dict[int, Trial] = {}

    def open(self, folder: Path, done: Lines) -> None:
        """Take up the study in ``folder``, or begin one.

        Raises ``CheckpointError`` where it does not know the jobs that are ``done``.
        """
        self.study = studies.open_study(folder, [*self.metrics.values()], self.section.pruner)
        if done and max(done) >= len(self.study.trials):
            raise CheckpointError(
                f"{folder / studies.STUDY}: it does not know job {max(done)}, which the ledger has."
            )

    def jobs(self, done: Lines) -> Iterator[Job]:
        """First those that a kill cut short, with the values they had."""
        from optuna.trial import TrialState

        for found in self.study.get_trials(states=[TrialState.RUNNING]):
            job = self._taken_up(found)
            if job.number in done:
                self.tell(done[job.number])
            else:
                yield job
        while (number := len(self.study.trials)) < self.n_trials:
            self.study.sampler = self._sampler(number)
            yield self._job(self.study.ask())

    def watch(self, job: Job) -> Watch | None:
        """Reports each evaluation; a step that was reported before a kill is not reported again."""
        if not self.section.prunes:
            return None
        (name,) = self.metrics
        trial = self.trials[job.number]
        reported = {*self.study.trials[job.number].intermediate_values}

        def look(line: Mapping[str, Any]) -> bool:
            if name not in line or "train_runtime" in line:
                return False
            if line["step"] not in reported:
                reported.add(line["step"])
                trial.report(line[name], line["step"])
            return bool(trial.should_prune())

        return look

    def tell(self, line: Mapping[str, Any]) -> None:
        from optuna.trial import TrialState

        trial = self.trials.pop(line["job"])
        values = [line.get(name, math.nan) for name in self.metrics]
        if line["status"] == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        elif line["status"] == 0 and all(map(math.isfinite, values)):
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _taken_up(self, found: FrozenTrial) -> Job:
        """A trial that nothing was told of; what it has no value for yet is drawn now."""
        from optuna import Trial

        complete = all(each.key in found.params for each in self.space.dimensions)
        # One that has all its values draws nothing: a sequence of points would lose one by it.
        values = found.params if complete else None
        self.study.sampler = studies.sampler_of(values) if values else self._sampler(found.number)
        return self._job(Trial(self.study, found._trial_id))

    def _sampler(self, number: int) -> BaseSampler:
        """What chooses the values of that trial."""
        if self.grid:
            return studies.sampler_of(self.grid[number])
        if self.sampler == "qmc":  # all trials' points are one sequence
            return studies.make_sampler(self.sampler, self.section.seed)
        seed = random.Random(f"{self.section.seed} {number}").getrandbits(32)
        return studies.make_sampler(self.sampler, seed)

    def _job(self, trial: Trial) -> Job:
        """The values of a trial: those it has, and for the rest what the sampler suggests."""
        self.trials[trial.number] = trial
        values = {
            # What `suggest_int` and its like do with the distribution that they make.
            each.key: trial._suggest(each.key, studies.distribution(each, as_choice=bool(self.grid)))
            for each in self.space.dimensions
        }
        return Job(number=trial.number, values=values)


def refuse(space: Space, sampler: Sampler, metrics: Mapping[str, Direction]) -> None:
    """``ConfigError`` for what is not installed, or what a sampler cannot do."""
    problems = [
        f"sweep.sampler: {sampler} cannot be used; {package.problem}"
        for package in (OPTUNA, NEEDS.get(sampler))
        if package is not None and package.is_missing
    ]
    if not space.dimensions:
        problems.append("--multirun: nothing is swept; give values, as in a=1,2 or a=interval(0,1).")
    elif sampler == "cmaes":
        choice = next((each for each in space.dimensions if not each.is_number), None)
        if choice is not None:
            problems.append(f"sweep.sampler: cmaes is for numbers, and {choice.name} is a choice; take tpe.")
        elif len(space.dimensions) < 2:
            problems.append("sweep.sampler: cmaes needs two numbers to search over, or more; take tpe.")
        if len(metrics) > 1:
            problems.append("sweep.sampler: cmaes is for one metric; take nsgaii or tpe.")
    if problems:
        raise ConfigError(problems)
