"""A search over training arguments, and over the model if it is made for a trial, with Optuna.

Source of names and behaviour: reference page main_classes/trainer (``hyperparameter_search``). Where the two
differ on purpose: a trial's seed is that of its model, too; a trial whose loss is not finite failed, and the
search goes on; afterwards the trainer is as it was before.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf import logging
from conf.errors import ConfigError, NonFiniteError
from conf.plugins import nearest
from trainer.methods.data import DataMethods
from trainer.methods.program import ProgramRun
from trainer.predictions import BestRun
from trainer.reports import is_timing
from trainer.seeding import set_seed
from trainer.state import TrainerControl, states_of
from trainer.sweeps.options import OPTUNA
from trainer.training_arguments import TrainingArguments

if TYPE_CHECKING:
    from optuna import Study

    from trainer.trainer import Trainer

BACKENDS = ("ray", "wandb", "sigopt")  # the reference's others
FOR_OPTIMIZE = ("timeout", "gc_after_trial", "catch")  # the other options are of ``optuna.create_study``

logger = logging.get_logger(__name__)


class SearchMethods:
    """The search over hyperparameters (reference: main_classes/trainer)."""

    search: TrialSearch | None
    hp_name: Callable[[Any], str] | None

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], Mapping[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float | Sequence[float]] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: str | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """Train once for each trial, in ``output_dir/run-<number>`` or a folder that ``hp_name`` names.

        ``hp_space(trial)`` gives the arguments that the trial changes, ``compute_objective(metrics)`` what is
        optimised: by default the evaluation's loss, or the sum of its other metrics if there are some. Each
        evaluation on the way is reported, so that a ``pruner`` may end a trial. With several directions the
        objective has several values, and the trials that none beats are returned. ``kwargs`` are those of
        ``optuna.create_study``, and ``timeout`` (seconds), ``gc_after_trial`` and ``catch``. Raises
        ``ConfigError``, also where no trial came to an end.
        """
        refuse(self, n_trials, direction, backend, kwargs)
        search = TrialSearch(
            trainer=self,  # type: ignore[arg-type]
            hp_space=hp_space or default_hp_space,
            compute_objective=compute_objective or default_compute_objective,
        )
        options = {name: kwargs.pop(name) for name in FOR_OPTIMIZE if name in kwargs}
        kwargs.pop("n_jobs", None)
        kwargs["direction" if isinstance(direction, str) else "directions"] = direction
        self.search, self.hp_name = search, hp_name
        try:
            return search.run(kwargs, {**options, "n_trials": n_trials})
        finally:
            self.search = self.hp_name = None


@dataclass(kw_only=True)
class TrialRun(ProgramRun):
    """A trial's training, whose evaluations are reported to the search."""

    def evaluate(self, *, counts: bool = True) -> dict[str, float]:
        metrics = super().evaluate(counts=counts)
        self.trainer.search.report(self, metrics)
        return metrics


@dataclass(kw_only=True)
class TrialSearch:
    """The trials of one search, one after the other; the main process chooses, all of them train."""

    trainer: Trainer
    hp_space: Callable[[Any], Mapping[str, Any]]
    compute_objective: Callable[[dict[str, float]], Any]
    objective: Any = None
    args: TrainingArguments = field(init=False)
    callback_states: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.args = self.trainer.args
        self.callback_states = copy.deepcopy(states_of(self.trainer.callbacks))

    def run(self, study: dict[str, Any], options: dict[str, Any]) -> BestRun | list[BestRun]:
        """The best trial, or those that none beats, on all processes."""
        import optuna

        trainer = self.trainer
        before = trainer.config, trainer.given, trainer.output_dir
        catch = options.pop("catch", ())
        caught = (NonFiniteError, *(catch if isinstance(catch, Iterable) else (catch,)))
        best = None
        try:
            if trainer.ranks.is_main:
                made = optuna.create_study(**study)
                made.optimize(self.chosen, catch=caught, **options)
                trainer.ranks.gather(None)
                best = _best(made)
            else:
                self._follow((optuna.TrialPruned, *caught))
        finally:
            self._restore(before)
        return trainer.ranks.gather(best)[0]

    def chosen(self, trial: Any) -> Any:
        """On the main process: let the space choose, and all processes train by it."""
        values = self.hp_space(trial)
        if not isinstance(values, Mapping):
            kind = type(values).__name__
            raise ConfigError(f"hp_space: a mapping of arguments to values is wanted, it gave a {kind}.")
        self.trainer.ranks.gather((trial.number, dict(trial.params), dict(values)))
        return self.trained(trial, values)

    def _follow(self, caught: tuple[type[Exception], ...]) -> None:
        """On another process: train by what the main one chose, until it has no more."""
        from optuna.trial import FixedTrial

        while (sent := self.trainer.ranks.gather(None)[0]) is not None:
            number, params, values = sent
            with suppress(*caught):  # the main process keeps count
                self.trained(FixedTrial(params, number), values)

    def trained(self, trial: Any, values: Mapping[str, Any]) -> Any:
        """Train with a trial's arguments, from a fresh model and callbacks; its objective."""
        trainer = self.trainer
        trainer.args = self._arguments(trial, values)
        self._reset_callbacks()
        self.objective = None
        trainer.train(trial=trial)
        if self.objective is None:
            self.objective = self.compute_objective(dict(trainer.evaluate()))
        return self.objective

    def report(self, run: TrialRun, metrics: Mapping[str, float]) -> None:
        """An evaluation on the way; raises ``optuna.TrialPruned`` where the trial is not worth going on."""
        import optuna

        self.objective = self.compute_objective(dict(metrics))
        trial, prunes = self.trainer.trial, False
        if self.trainer.ranks.is_main and len(trial.study.directions) == 1:
            trial.report(self.objective, run.state.global_step)
            prunes = trial.should_prune()
        if self.trainer.ranks.gather(prunes)[0]:
            run.callbacks("on_train_end")
            raise optuna.TrialPruned

    def _arguments(self, trial: Any, values: Mapping[str, Any]) -> TrainingArguments:
        """The program's arguments with a trial's values, each as the type of what was there."""
        args = copy.copy(self.args)
        for name, value in values.items():
            if not hasattr(args, name):
                logger.warning("hp_space: %s is no training argument; only model_init can look at it.", name)
                continue
            before = getattr(args, name)
            setattr(args, name, value if before is None else type(before)(value))
        name = f"run-{trial.number}" if self.trainer.hp_name is None else self.trainer.hp_name(trial)
        args.output_dir = str(Path(self.args.output_dir or "trainer_output") / name)
        return args

    def _reset_callbacks(self) -> None:
        """Let callbacks be in the state that they had before the search."""
        self.trainer.callback_handler.load_state_dict(copy.deepcopy(self.callback_states))

    def _restore(self, before: tuple[Any, Any, Path]) -> None:
        """Leave the trainer as it was made: arguments, a model of no trial, no optimizer, no training."""
        trainer = self.trainer
        trainer.args = self.args
        trainer.config, trainer.given, trainer.output_dir = before
        trainer.run, trainer.optimizer, trainer.lr_scheduler = None, None, None
        trainer.state, trainer.control = trainer._first_state(), TrainerControl()
        set_seed(trainer.config.training.seed)
        trainer._take(trainer.call_model_init())
        self._reset_callbacks()
        trainer.callback_handler = trainer._first_handler()


def default_hp_space(trial: Any) -> dict[str, Any]:
    """The reference's: learning rate, epochs, seed and batch size."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical(
            "per_device_train_batch_size", [4, 8, 16, 32, 64]
        ),
    }


def default_compute_objective(metrics: dict[str, float]) -> float:
    """The evaluation's loss, or if there are other metrics their sum; timings do not count."""
    others = [
        value for name, value in metrics.items() if name not in ("eval_loss", "epoch") and not is_timing(name)
    ]
    return sum(others) if others else metrics["eval_loss"]


def refuse(trainer: Any, n_trials: Any, direction: Any, backend: Any, kwargs: Mapping[str, Any]) -> None:
    """``ConfigError`` with all that does not fit a search."""
    name = getattr(backend, "value", backend)
    if name in BACKENDS:
        raise ConfigError(f"backend: {name} is not supported; the one that is there is 'optuna'.")
    if name not in (None, "optuna"):
        raise ConfigError(f"backend: there is no {name!r}; the one that is there is 'optuna'.")
    if OPTUNA.is_missing:
        raise ConfigError(f"backend: optuna cannot be used; {OPTUNA.problem}")
    if problems := [*_wrong_options(n_trials, direction, kwargs), *_wrong_trainer(trainer)]:
        raise ConfigError(problems)


def _wrong_options(n_trials: Any, direction: Any, kwargs: Mapping[str, Any]) -> list[str]:
    from optuna import create_study

    problems = []
    if n_trials is not None and n_trials < 1:
        problems.append(f"n_trials: at least 1 is wanted, {n_trials} was given.")
    if n_trials is None and kwargs.get("timeout") is None:
        problems.append("n_trials: without a number or a timeout the search would have no end.")
    directions = [direction] if isinstance(direction, str) else [*direction]
    for one in directions or [None]:
        if one not in ("minimize", "maximize"):
            problems.append(f"direction: 'minimize' or 'maximize' is wanted, {one!r} was given.")
    if kwargs.get("n_jobs", 1) != 1:
        problems.append("n_jobs: the trials share this process and come one after the other; leave it out.")
    known = {*inspect.signature(create_study).parameters, *FOR_OPTIMIZE, "n_jobs"}
    known -= {"direction", "directions"}
    problems += [
        f"{key}: a study has no such option; {nearest(key, known)}" for key in kwargs if key not in known
    ]
    return problems


def _wrong_trainer(trainer: Any) -> list[str]:
    problems = []
    if trainer.model_init is None:
        problems.append("model_init: each trial begins with a fresh model; give it instead of model.")
    overridden = type(trainer).get_eval_dataloader is not DataMethods.get_eval_dataloader
    if trainer.eval_dataset is None and not overridden:
        problems.append("eval_dataset: trials are compared by an evaluation; give one.")
    return problems


def _best(study: Study) -> BestRun | list[BestRun]:
    if not study.best_trials:
        raise ConfigError(
            f"hyperparameter_search: none of {len(study.trials)} trials ended with a finite objective; look "
            "at what their messages say, or narrow the space."
        )
    if len(study.directions) > 1:
        return [BestRun(str(one.number), one.values, one.params) for one in study.best_trials]
    best = study.best_trial
    return BestRun(str(best.number), best.values[0], best.params)
