"""``Trainer.hyperparameter_search``: its trials, what they are compared by, and what they leave behind."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from conf.errors import ConfigError
from tests.conftest import ROOT
from tests.trainer.programs import Classifier, arguments, points, same
from trainer import BestRun, Trainer, TrainerCallback
from trainer.methods.search import default_compute_objective, default_hp_space

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def fresh() -> nn.Module:
    return Classifier()


def made(folder: Path, **given: Any) -> Trainer:
    """A trainer of a small model, made anew for each trial, that evaluates each of its two epochs."""
    objects = {"model_init": fresh, "eval_dataset": points(8, seed=1), "train_dataset": points(12)}
    names = ("callbacks", "compute_metrics", "model", "optimizers", *objects)
    objects |= {name: given.pop(name) for name in names if name in given}
    usual = {"num_train_epochs": 2, "per_device_train_batch_size": 12, "eval_strategy": "epoch"}
    return Trainer(args=arguments(folder, **{**usual, **given}), **objects)


def rates(trial: Any) -> dict[str, Any]:
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def loss(metrics: dict[str, float]) -> float:
    return metrics["eval_loss"]


def seeded(seed: int = 0) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def test_values_and_objectives_are_the_references(tmp_path: Path) -> None:
    """A step is the whole of the data, so that its order, which differs, is of no account."""
    options: dict[str, Any] = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 12,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "optim": "adamw_torch",
        "report_to": "none",
    }

    def space(trial: Any) -> dict[str, Any]:
        return {
            **rates(trial),
            "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.5]),
            "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 4),
        }

    found = []
    for name, of, kind in (
        ("ours", Trainer, arguments),
        ("theirs", transformers.Trainer, transformers.TrainingArguments),
    ):
        args: Any = kind(str(tmp_path / name), **options)
        trainer: Any = of(
            model_init=fresh, args=args, train_dataset=points(12), eval_dataset=points(8, seed=1)
        )
        objectives: list[float] = []

        def objective(metrics: dict[str, float], seen: list[float] = objectives) -> float:
            seen.append(metrics["eval_loss"])
            return seen[-1]

        best = trainer.hyperparameter_search(
            space,
            objective,
            n_trials=6,
            sampler=optuna.samplers.TPESampler(seed=3, n_startup_trials=3),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
        )
        found.append((best, objectives))
    (ours, our_objectives), (theirs, their_objectives) = found
    assert (ours.run_id, ours.hyperparameters) == (theirs.run_id, theirs.hyperparameters)
    assert ours.objective == pytest.approx(theirs.objective, abs=TOLERANCE)
    assert len(our_objectives) == len(their_objectives) > 6
    assert our_objectives == pytest.approx(their_objectives, abs=TOLERANCE)


def test_the_default_space_is_the_references() -> None:
    theirs = transformers.trainer_utils.default_hp_space_optuna
    trials = [optuna.create_study(sampler=seeded()).ask() for _ in range(2)]
    assert default_hp_space(trials[0]) == theirs(trials[1])
    assert trials[0].distributions == trials[1].distributions


def test_the_default_objective_is_the_references() -> None:
    theirs = transformers.trainer_utils.default_compute_objective
    times = {"eval_runtime": 5.0, "eval_samples_per_second": 6.0, "epoch": 2.0}
    for metrics in ({"eval_loss": 1.5}, {"eval_loss": 1.5, "eval_a": 0.25, "eval_b": 0.5}):
        assert default_compute_objective({**metrics, **times}) == theirs({**metrics, **times})


def test_a_search_with_all_defaults(tmp_path: Path) -> None:
    trainer = made(tmp_path, per_device_train_batch_size=4)
    best = trainer.hyperparameter_search(n_trials=2, sampler=seeded())
    assert isinstance(best, BestRun)
    assert {*best.hyperparameters} == {
        "learning_rate",
        "num_train_epochs",
        "seed",
        "per_device_train_batch_size",
    }
    folder = tmp_path / f"run-{best.run_id}"
    results = json.loads((folder / "all_results.json").read_text())
    assert results["epoch"] == best.hyperparameters["num_train_epochs"]
    assert results["eval_loss"] == best.objective
    config = (folder / "config.yaml").read_text()
    assert f"learning_rate: {best.hyperparameters['learning_rate']}\n" in config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-0", "run-1"]


@dataclass
class Recorder(TrainerCallback):
    """Remembers what it is told of a trial, and counts evaluations as state of its own."""

    evaluations: int = 0

    def __post_init__(self) -> None:
        self.begun: list[tuple[Any, ...]] = []

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"evaluations": self.evaluations}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = (state.is_hyper_param_search, state.trial_name, state.trial_params)
        self.begun.append((*told, self.evaluations, state.global_step, len(state.log_history)))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.evaluations += 1


def test_trials_are_told_and_named(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = made(tmp_path, callbacks=[recorder])
    study: dict[str, Any] = {"storage": optuna.storages.InMemoryStorage(), "study_name": "mine"}
    trainer.hyperparameter_search(
        rates, loss, n_trials=2, hp_name=lambda trial: f"trial-{trial.number}", sampler=seeded(), **study
    )
    trials = optuna.load_study(**study).trials
    assert recorder.begun == [(True, f"trial-{trial.number}", trial.params, 0, 0, 0) for trial in trials], (
        "callbacks begin each trial as they were before the search"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial-0", "trial-1"]
    assert [[*trial.intermediate_values] for trial in trials] == [[1, 2], [1, 2]]


def test_the_model_may_depend_on_the_trial_and_has_its_seed(tmp_path: Path) -> None:
    begun: dict[int, tuple[int, int]] = {}

    def model_init(trial: Any) -> nn.Module:
        seed, model = torch.initial_seed(), Classifier()
        if trial is not None:
            width = trial.suggest_categorical("width", [4, 16])
            model.hidden, model.scores = nn.Linear(4, width), nn.Linear(width, 3)
            begun[trial.number] = (seed, width)
        return model

    def space(trial: Any) -> dict[str, Any]:
        return {"seed": trial.suggest_int("seed", 1, 40)}

    trainer = made(tmp_path, model_init=model_init)
    best = trainer.hyperparameter_search(space, n_trials=4, sampler=seeded(1))
    assert isinstance(best, BestRun)
    assert {width for _, width in begun.values()} == {4, 16}
    assert len({seed for seed, _ in begun.values()}) == 4
    for number, (seed, width) in begun.items():
        folder = tmp_path / f"run-{number}"
        assert f"  seed: {seed}\n" in (folder / "config.yaml").read_text()
        assert load_file(folder / "model.safetensors")["hidden.weight"].shape == (width, 4)
    assert best.hyperparameters == dict(zip(("seed", "width"), begun[int(best.run_id)], strict=True))


def test_afterwards_the_trainer_is_as_it_was(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer, untouched = made(tmp_path / "a", callbacks=[recorder]), made(tmp_path / "b")
    args, values = trainer.args, trainer.args.to_dict()

    def space(trial: Any) -> dict[str, Any]:
        return {**rates(trial), "seed": trial.suggest_int("seed", 1, 9), "weight_decay": 0.5}

    trainer.hyperparameter_search(space, n_trials=2)
    assert trainer.args is args
    assert trainer.args.to_dict() == values
    assert same(trainer.model, untouched.model)
    assert (trainer.optimizer, trainer.lr_scheduler, trainer.hp_name, trainer.search) == (None,) * 4
    assert trainer.state == untouched.state
    assert recorder.evaluations == 0
    output, wanted = trainer.train(), untouched.train()
    assert output.training_loss == wanted.training_loss
    assert same(trainer.model, untouched.model)
    assert trainer.state.is_hyper_param_search is False
    assert (tmp_path / "a" / "model.safetensors").is_file()


def test_a_trial_is_the_training_with_its_arguments_whatever_ran_before(tmp_path: Path) -> None:
    study: dict[str, Any] = {"storage": optuna.storages.InMemoryStorage(), "study_name": "mine"}
    trainer = made(tmp_path / "search", per_device_train_batch_size=2)
    trainer.hyperparameter_search(rates, loss, n_trials=3, sampler=seeded(), **study)
    for trial in optuna.load_study(**study).trials:
        folder = tmp_path / "search" / f"run-{trial.number}"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        alone = made(tmp_path / f"alone-{trial.number}", per_device_train_batch_size=2, **trial.params)
        alone.train()
        found = [line["loss"] for line in alone.state.log_history if "loss" in line]
        assert found == [line["loss"] for line in lines if "loss" in line]
        assert same(alone.model, _loaded(folder))


def _loaded(folder: Path) -> nn.Module:
    model = Classifier()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def test_a_bad_trial_is_pruned_and_its_callbacks_hear_the_end(tmp_path: Path) -> None:
    ends = []

    class Ends(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(state.global_step)

    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_categorical("learning_rate", [1e-9, 1e-2])}

    study: dict[str, Any] = {"storage": optuna.storages.InMemoryStorage(), "study_name": "mine"}
    sampler = optuna.samplers.GridSampler({"learning_rate": [1e-2, 1e-9]}, seed=1)
    trainer = made(tmp_path, callbacks=[Ends], num_train_epochs=4)
    pruner = optuna.pruners.ThresholdPruner(upper=1.0)
    best = trainer.hyperparameter_search(
        space, lambda metrics: float(trainer.args.learning_rate < 1e-3) * 2, n_trials=2, sampler=sampler,
        pruner=pruner, **study,
    )  # fmt: skip
    trials = optuna.load_study(**study).trials
    states = {trial.params["learning_rate"]: trial.state.name for trial in trials}
    assert states == {1e-2: "COMPLETE", 1e-9: "PRUNED"}
    assert isinstance(best, BestRun)
    assert (best.objective, best.hyperparameters) == (0.0, {"learning_rate": 1e-2})
    assert sorted(ends) == [1, 4]


def test_a_loss_that_is_not_finite_fails_its_trial_alone(tmp_path: Path) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_categorical("learning_rate", [1e-2, 1e38])}

    sampler = optuna.samplers.GridSampler({"learning_rate": [1e38, 1e-2]}, seed=0)
    trainer = made(tmp_path, optim="sgd", max_grad_norm=0.0, num_train_epochs=4)
    study: dict[str, Any] = {"storage": optuna.storages.InMemoryStorage(), "study_name": "mine"}
    best = trainer.hyperparameter_search(space, loss, n_trials=2, sampler=sampler, **study)
    assert isinstance(best, BestRun)
    assert best.hyperparameters == {"learning_rate": 1e-2}
    assert sorted(trial.state.name for trial in optuna.load_study(**study).trials) == ["COMPLETE", "FAIL"]
    with pytest.raises(ConfigError, match="none of 1 trials ended with a finite objective"):
        made(tmp_path / "b").hyperparameter_search(rates, lambda metrics: math.nan, n_trials=1)


def test_several_directions(tmp_path: Path) -> None:
    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}

    seen: list[tuple[float, float]] = []

    def objectives(metrics: dict[str, float]) -> tuple[float, float]:
        seen.append((metrics["eval_loss"], metrics["eval_accuracy"]))
        return seen[-1]

    trainer = made(tmp_path, compute_metrics=accuracy)
    best = trainer.hyperparameter_search(
        rates, objectives, n_trials=5, direction=["minimize", "maximize"], sampler=seeded()
    )
    assert isinstance(best, list)
    values = seen[1::2]  # an objective is the last evaluation's
    front = [
        i
        for i, (a, b) in enumerate(values)
        if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in values)
    ]
    assert sorted(int(run.run_id) for run in best) == front
    assert all(tuple(run.objective) == values[int(run.run_id)] for run in best)  # type: ignore[arg-type]


def test_an_objective_without_evaluations_is_that_of_the_end(tmp_path: Path) -> None:
    trainer = made(tmp_path, eval_strategy="no")
    best = trainer.hyperparameter_search(rates, n_trials=1)
    assert isinstance(best, BestRun)
    assert isinstance(best.objective, float)


def test_values_take_the_type_of_what_was_there_and_the_rest_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def warning(text: str, *values: Any) -> None:
        seen.append(text % values)

    monkeypatch.setattr("trainer.methods.search.logger.warning", warning)
    trainer = made(tmp_path)

    def space(trial: Any) -> dict[str, Any]:
        return {"num_train_epochs": 1, "per_device_train_batch_size": 6.0, "width": 3}

    trainer.hyperparameter_search(space, n_trials=1)
    config = (tmp_path / "run-0" / "config.yaml").read_text()
    assert "num_train_epochs: 1.0\n" in config
    assert "per_device_train_batch_size: 6\n" in config
    assert seen == ["hp_space: width is no training argument; only model_init can look at it."]


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"backend": "ray"}, "backend: ray is not supported; the one that is there is 'optuna'."),
    ({}, {"backend": "sigopt"}, "backend: sigopt is not supported; the one that is there is 'optuna'."),
    (
        {},
        {"backend": transformers.trainer_utils.HPSearchBackend.WANDB},
        "backend: wandb is not supported; the one that is there is 'optuna'.",
    ),
    ({}, {"backend": "hyperopt"}, "backend: there is no 'hyperopt'; the one that is there is 'optuna'."),
    (
        {"model": Classifier(), "model_init": None},
        {},
        "model_init: each trial begins with a fresh model; give it instead of model.",
    ),
    (
        {"eval_dataset": None, "eval_strategy": "no"},
        {},
        "eval_dataset: trials are compared by an evaluation; give one.",
    ),
    ({}, {"n_trials": 0}, "n_trials: at least 1 is wanted, 0 was given."),
    ({}, {"n_trials": None}, "n_trials: without a number or a timeout the search would have no end."),
    ({}, {"direction": "min"}, "direction: 'minimize' or 'maximize' is wanted, 'min' was given."),
    ({}, {"direction": []}, "direction: 'minimize' or 'maximize' is wanted, None was given."),
    ({}, {"n_jobs": 2}, "n_jobs: the trials share this process and come one after the other; leave it out."),
    ({}, {"samplr": 2}, "samplr: a study has no such option; did you mean 'sampler'?"),
    ({}, {"hp_space": lambda trial: None}, "hp_space: a mapping of arguments to values is wanted, it gave a"),
    ({}, {"hp_space": lambda trial: {"num_train_epochs": -1}}, "num_train_epochs: more than 0 is wanted, -1"),
]


@pytest.mark.parametrize(("given", "asked", "said"), WRONG, ids=[said[:50] for _, _, said in WRONG])
def test_what_cannot_be(given: dict[str, Any], asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    trainer = made(tmp_path, **given)
    with pytest.raises(ConfigError) as raised:
        trainer.hyperparameter_search(**asked)
    assert str(raised.value).startswith(said)
    assert not list(tmp_path.glob("*/metrics.jsonl"))


def test_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = made(tmp_path)
    monkeypatch.setattr("conf.plugins.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^backend: optuna cannot be used; it needs the package optuna; pip"
    ):
        trainer.hyperparameter_search()


TWO = """
import json, sys
from pathlib import Path
import optuna
from tests.trainer.test_hyperparameter_search import loss, made, rates, seeded
folder = Path(sys.argv[1])
trainer = made(folder, per_device_train_batch_size=int(sys.argv[2]), num_train_epochs=4)
pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
best = trainer.hyperparameter_search(rates, loss, n_trials=5, sampler=seeded(2), pruner=pruner)
(folder / f"best-{trainer.args.process_index}.json").write_text(json.dumps(best))
"""


@pytest.mark.stress  # real processes, twenty seconds
def test_two_processes_search_as_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO)
    found = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        done = subprocess.run(
            [sys.executable, *(launcher if count == 2 else []), str(script), str(folder), str(12 // count)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append([json.loads(file.read_text()) for file in sorted(folder.glob("best-*.json"))])
    (alone,), (first, second) = found
    assert first == second
    assert (first[0], first[2]) == (alone[0], alone[2])
    assert first[1] == pytest.approx(alone[1], abs=TOLERANCE)
