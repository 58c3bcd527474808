"""Callbacks written for the reference run here unchanged, and are told the same things in the same order."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import integrations
from transformers.trainer_callback import ExportableState

from callbacks import EarlyStoppingCallback
from tests.trainer.small_program import program, rows, tagger
from trainer.state import EVENTS

Told = list[tuple[str, int]]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own, and no word to anything outside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("MLFLOW_DISABLE_TELEMETRY", "COMET_DISABLE_AUTO_LOGGING"):
        monkeypatch.setenv(name, "1")
    yield tmp_path
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].end_run()


# -- what they are told ----------------------------------------------------------------------------------


def witness(kind: type, seen: Told) -> Any:
    """A callback of that kind that notes every event and the step it is told at."""

    def noting(event: str) -> Callable[..., None]:
        return lambda self, args, state, control, **given: seen.append((event, state.global_step))

    return type("Witness", (kind,), {event: noting(event) for event in EVENTS})()


AFTER_A_STEP = {"on_epoch_end", "on_log", "on_prediction_step", "on_evaluate", "on_save"}
RUNS: dict[str, dict[str, Any]] = {
    "by steps": {
        "max_steps": 8,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_strategy": "steps",
        "save_steps": 3,
    },
    "by epochs": {
        "num_train_epochs": 2,
        "logging_strategy": "epoch",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
    },
    "mixed": {
        "num_train_epochs": 2,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "first step and start": {
        "max_steps": 4,
        "logging_steps": 4,
        "logging_first_step": True,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_on_start": True,
        "save_strategy": "no",
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_events_are_those_of_the_reference_in_its_order(name: str, tmp_path: Path) -> None:
    """With one difference: what is due at the last step of an epoch is done at once, after the epoch's end.

    The reference does what is due by steps, tells of the end, and does what is due by epochs. Saving comes
    last here, so that a checkpoint holds all that was said of its step.
    """
    options = {
        **RUNS[name],
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }
    ours: Told = []
    parts = {"callbacks": [witness(transformers.TrainerCallback, ours)], "eval_dataset": rows(8)}
    program(tmp_path, parts=parts, **options).train()
    theirs = told_by_the_reference(tmp_path / "theirs", options)
    assert ours == with_the_end_of_an_epoch_first(theirs)
    assert {event for event, _ in ours} >= {"on_substep_end", "on_prediction_step", "on_epoch_end"}


def told_by_the_reference(folder: Path, options: dict[str, Any]) -> Told:
    seen: Told = []
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, report_to="none", **options
    )
    transformers.Trainer(
        tagger(),
        arguments,
        train_dataset=rows(),
        eval_dataset=rows(8),
        callbacks=[witness(transformers.TrainerCallback, seen)],
    ).train()
    return seen


def with_the_end_of_an_epoch_first(told: Told) -> Told:
    """After the last step of an epoch: its end, what is said and evaluated, what is saved."""
    places = {"on_epoch_end": 0, "on_save": 2}
    ends = {step for event, step in told if event == "on_epoch_end"}
    *told, summary, end = told
    moved: Told = []
    for (step, is_after), events in groupby(told, lambda each: (each[1], each[0] in AFTER_A_STEP)):
        turns = places if is_after and step in ends else {}
        moved += sorted(events, key=lambda each: turns.get(each[0], 1))
    return [*moved, summary, end]


def test_the_last_step_is_logged_whatever_is_due(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 5, "logging_steps": 2}
    made = program(tmp_path, **options)
    made.train()
    assert [line["step"] for line in made.state.log_history if "loss" in line] == [2, 4, 5]
    theirs = told_by_the_reference(tmp_path / "theirs", options)
    assert [step for event, step in theirs if event == "on_log"] == [2, 4, 5], "at 5 the summary alone"


def test_a_prediction_is_told(tmp_path: Path) -> None:
    seen: Told = []
    made = program(tmp_path, parts={"callbacks": [witness(transformers.TrainerCallback, seen)]})
    made.predict(rows(4))
    assert [event for event, _ in seen] == ["on_init_end", "on_prediction_step", "on_predict"]


# -- those of the reference ------------------------------------------------------------------------------


def trained_with(folder: Path, *callbacks: Any, **options: Any) -> Any:
    parts = {"callbacks": list(callbacks), "eval_dataset": rows(8)}
    made = program(folder, parts=parts, **{"eval_strategy": "epoch", **options})
    made.train()
    return made


def test_early_stopping_and_ours_stop_alike(alone: Path) -> None:
    options: dict[str, Any] = {
        "max_steps": 9,
        "learning_rate": 0.0,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
    }
    theirs = trained_with(alone, transformers.EarlyStoppingCallback(2), **options)
    ours = trained_with(alone, EarlyStoppingCallback(2), **options)
    assert theirs.state.global_step == ours.state.global_step == 3
    saved = [
        json.loads((made.output_dir / "checkpoint-2/trainer_state.json").read_text())["stateful_callbacks"]
        for made in (theirs, ours)
    ]
    assert saved[0] == saved[1], "so that either goes on where the other was"


def test_printer_progress_and_flow(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = (transformers.PrinterCallback, transformers.ProgressCallback, transformers.DefaultFlowCallback)
    made = trained_with(alone, *(kind() for kind in kinds))
    printed = capsys.readouterr()
    assert printed.out.count("'loss'") >= 3
    assert "3/3" in printed.err
    without = trained_with(alone)
    logged = [[line["step"] for line in each.state.log_history] for each in (made, without)]
    assert logged[0] == logged[1], "its flow is the one that there is already"


def test_tensorboard(alone: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = trained_with(alone, integrations.TensorBoardCallback())
    (folder,) = {file.parent for file in alone.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder)).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    wanted = [(line["step"], line["loss"]) for line in made.state.log_history if "loss" in line]
    assert losses == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in wanted]
    assert len(events.Scalars("eval/loss")) == 1
    assert "args/text_summary" in events.Tags()["tensors"]


def test_mlflow(alone: Path) -> None:
    import mlflow

    made = trained_with(alone, integrations.MLflowCallback())
    (run,) = mlflow.search_runs(output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert history[-1].value == pytest.approx(made.state.log_history[2]["loss"])
    assert run.data.params["learning_rate"] == "0.01"


def test_codecarbon(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a double of the tracker, as the real one asks the network where it is."""
    import codecarbon

    called: list[str] = []

    class Tracker:
        def __init__(self, **options: Any) -> None:
            called.append(f"made for {options['output_dir']}")

        def start(self) -> None:
            called.append("start")

        def stop(self) -> None:
            called.append("stop")

    monkeypatch.setattr(codecarbon, "EmissionsTracker", Tracker)
    made = trained_with(alone, integrations.CodeCarbonCallback())
    assert called == [f"made for {made.output_dir}", "start", "stop"]


# -- those of others -------------------------------------------------------------------------------------


class EvaluateOnTrain(transformers.TrainerCallback):
    """What many programs do to see the training set's metrics: they evaluate at the end of an epoch."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self._trainer = trainer

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if control.should_evaluate:
            control_copy = deepcopy(control)
            self._trainer.evaluate(eval_dataset=self._trainer.train_dataset, metric_key_prefix="train")
            return control_copy
        return None


class SaveBeside(transformers.TrainerCallback):
    """What programs with adapters do: they save something of their own into each checkpoint."""

    def on_save(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> transformers.TrainerControl:
        folder = os.path.join(
            args.output_dir, f"{transformers.trainer_utils.PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        )
        os.makedirs(os.path.join(folder, "adapter"), exist_ok=True)
        Path(folder, "adapter", "names.txt").write_text(", ".join(dict(kwargs["model"].named_parameters())))
        return control


class LossTarget(transformers.TrainerCallback, ExportableState):
    """Stops when enough lines in a row were below a loss; its count is saved."""

    def __init__(self, target: float = 100.0, lines: int = 4) -> None:
        self.target, self.lines = target, lines
        self.below = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        if "loss" in logs:
            self.below = self.below + 1 if logs["loss"] < self.target else 0
        if self.below >= self.lines:
            control.should_training_stop = True
        return control

    def state(self) -> dict[str, Any]:
        return {"args": {"target": self.target, "lines": self.lines}, "attributes": {"below": self.below}}


def test_one_that_evaluates_on_the_way(alone: Path) -> None:
    parts = {"callbacks": [EarlyStoppingCallback(5)], "eval_dataset": rows(8)}
    made = program(alone, parts=parts, num_train_epochs=2, eval_strategy="epoch")
    made.add_callback(EvaluateOnTrain(made))
    made.train()
    for name in ("train_loss", "eval_loss"):
        assert [line["step"] for line in made.state.log_history if name in line][:2] == [3, 6], name


def test_one_that_saves_beside(alone: Path) -> None:
    made = trained_with(alone, SaveBeside(), save_strategy="epoch", num_train_epochs=2)
    for step in (3, 6):
        names = (made.output_dir / f"checkpoint-{step}" / "adapter" / "names.txt").read_text()
        assert names == "words.weight, scores.weight, scores.bias"
    assert program(alone, output_dir=str(made.output_dir), num_train_epochs=2).train(
        resume_from_checkpoint=True
    )


def test_one_with_a_state_goes_on_after_a_stop(alone: Path) -> None:
    options = {"max_steps": 9, "save_strategy": "steps", "save_steps": 1}
    whole = trained_with(alone, LossTarget(), **options)
    assert whole.state.global_step == 4
    saved = json.loads((whole.output_dir / "checkpoint-3" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["LossTarget"] == {
        "args": {"target": 100.0, "lines": 4},
        "attributes": {"below": 3},
    }
    parts = {"callbacks": [LossTarget()], "eval_dataset": rows(8)}
    again = program(alone, parts=parts, output_dir=str(whole.output_dir), eval_strategy="epoch", **options)
    again.train(resume_from_checkpoint=str(whole.output_dir / "checkpoint-2"))
    assert again.state.global_step == 4, "it does not count anew"


# -- by a recipe -----------------------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
import transformers
from tests.trainer.test_reference_callbacks import LossTarget, SaveBeside

KINDS = {
    "flow": transformers.DefaultFlowCallback,
    "target": LossTarget,
    "beside": SaveBeside,
}

@dataclass(frozen=True, kw_only=True)
class Options:
    \"\"\"Which of them.\"\"\"
    which: str

def build(options):
    return KINDS[options.which]()

CATALOG = {"callbacks": {"theirs": ("theirs_of_all:Options", "theirs_of_all:build")}}
"""


def test_a_recipe_names_them_by_a_plugin(train: Any, tiny: Sequence[str], alone: Path) -> None:
    (alone / "theirs_of_all.py").write_text(PLUGIN)
    words = [
        f"plugins={alone}/theirs_of_all.py",
        "training.max_steps=9",
        "checkpoint.save_steps=1",
        "checkpoint.save_total_limit=null",
        "logging.logging_steps=1",
        "callbacks.progress=null",
        *(f"callbacks.{which}={{name: theirs, which: {which}}}" for which in ("flow", "target", "beside")),
    ]
    done = train(*tiny, *words)
    assert done.status == 0, done.error
    assert done.results["global_step"] == 4, "the fourth line below the target"
    assert (done.folder / "checkpoint-4" / "adapter" / "names.txt").is_file()
    resumed = train("resume=run/checkpoint-2")  # the plug-in is there still
    assert resumed.status == 0, resumed.error
    assert resumed.results["global_step"] == 4, "the two of before count"
