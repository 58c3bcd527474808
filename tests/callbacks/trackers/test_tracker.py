"""What all trackers have in common, told to one that writes it down; and four of them at once."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from callbacks.trackers import TRACKERS
from callbacks.trackers.tensorboard import TensorBoardCallback
from callbacks.trackers.tracker import Tracker, numbers, rewritten, save_model, shown, switched_on
from conf.errors import ConfigError
from conf.plugins import Package, options_of
from trainer.state import Callbacks, TrainerControl, TrainerState
from trainer.training_arguments import TrainingArguments

TOKEN = "hf_TheSecretOfThisTest"
ROOT = Path(__file__).resolve().parents[3]


@dataclasses.dataclass(kw_only=True)
class Recorder(Tracker):
    """Writes down what it is told; an error in ``fails`` is raised by the method of that name."""

    package: ClassVar[Package] = Package("json", extra="none")

    told: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    fails: dict[str, Exception] = dataclasses.field(default_factory=dict)

    def note(self, what: str, *about: Any) -> None:
        self.told.append((what, *about))
        if what in self.fails:
            raise self.fails[what]

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        self.note("start", self.run_id)
        self.config, self.words = config, list(sys.argv)
        self.run_id = self.run_id or f"run-{sum(each[0] == 'start' for each in self.told)}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.note("log", dict(values), step)

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        self.note("summarize", dict(values), step)

    def saved(self, folder: Path, state: TrainerState) -> None:
        self.note("saved", str(folder))

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        self.note("ended", kwargs["model"])

    def finish(self) -> None:
        self.note("finish", self.has_failed)


class Reopening(Recorder):
    """One whose run can be opened again."""

    reopens: ClassVar[bool] = True


class Model:
    """A model with a configuration."""

    class config:  # noqa: N801
        to_dict = staticmethod(lambda: {"hidden_size": 8, "seed": "the arguments win"})

    @staticmethod
    def num_parameters() -> int:
        return 12


def heard_by(tracker: Tracker, folder: Path | str = "out", model: Any = None, **state: Any) -> Callbacks:
    """The events of a run that only this tracker listens to."""
    args = TrainingArguments(output_dir=str(folder), hub_token=TOKEN, run_name="mine")
    state = {"global_step": 0, "max_steps": 9, **state}
    given = {"model": Model() if model is None else model, "processing_class": None}
    return Callbacks([tracker], args=args, state=TrainerState(**state), control=TrainerControl(), **given)


def whole_training(tell: Callbacks) -> None:
    """Two log lines, a checkpoint, the summary."""
    tell("on_train_begin")
    tell.state.global_step = 1
    tell("on_log", logs={"step": 1, "epoch": 0.5, "loss": 2.0, "eval_loss": float("nan"), "note": "x"})
    tell("on_save")
    tell("on_log", logs={"step": 1, "train_loss": 2.0, "train_runtime": 3.0})
    tell("on_train_end")
    tell.close()


def test_what_it_is_told_and_in_which_order() -> None:
    tracker = Recorder()
    whole_training(heard_by(tracker))
    assert [each[0] for each in tracker.told] == ["start", "log", "saved", "summarize", "ended", "finish"]
    _, values, step = tracker.told[1]
    assert math.isnan(values.pop("eval/loss"))
    assert (values, step) == ({"train/epoch": 0.5, "train/loss": 2.0}, 1)
    assert tracker.told[2] == ("saved", str(Path("out/checkpoint-1")))
    assert tracker.told[3] == ("summarize", {"train_loss": 2.0, "train_runtime": 3.0}, 1)
    assert tracker.told[-1] == ("finish", False)


def test_its_configuration_is_that_of_model_and_arguments_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["train.py", f"hub.hub_token={TOKEN}"]
    monkeypatch.setattr(sys, "argv", words)
    tracker = Recorder()
    heard_by(tracker)("on_train_begin")
    config = tracker.config
    assert (config["hidden_size"], config["seed"], config["run_name"]) == (8, 42, "mine")
    assert config["model/num_parameters"] == 12
    assert TOKEN not in json.dumps(dict(config))
    assert tracker.words == ["train.py", "hub.hub_token=<HUB_TOKEN>"]
    assert sys.argv is words


def test_other_processes_are_silent() -> None:
    tracker = Reopening()
    tell = heard_by(tracker, is_world_process_zero=False)
    whole_training(tell)
    tell("on_predict", metrics={"test_loss": 1.0})
    assert tracker.told == []


def test_one_that_cannot_start_ends_the_run_with_a_sentence() -> None:
    error = OSError("no answer from\n https://me:secret@host/path")
    tracker = Recorder(fails={"start": error, "finish": OSError("by half")})
    tell = heard_by(tracker)
    with pytest.raises(ConfigError) as raised:
        tell("on_train_begin")
    assert str(raised.value) == (
        "test_tracker: it could not start (no answer from https://host/path); make that right, or leave this "
        "tracker out."
    )
    tell.close()
    assert [each[0] for each in tracker.told] == ["start", "finish"]
    given = ConfigError("a sentence of its own.")
    with pytest.raises(ConfigError, match=r"^a sentence of its own\.$"):
        heard_by(Recorder(fails={"start": given}))("on_train_begin")


def test_what_fails_later_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    fails: dict[str, Exception] = {
        name: ValueError(f"{name} broke") for name in ("log", "saved", "summarize", "ended", "finish")
    }
    tracker = Recorder(fails=fails)
    tell = heard_by(tracker)
    whole_training(tell)
    assert len(tracker.told) == 6, "it is tried each time"
    assert capsys.readouterr().err == (
        "[stockpot] test_tracker: it failed (log broke); the training goes on.\n"
    )


def test_a_training_that_raises_ends_it_as_failed() -> None:
    tracker = Recorder()
    tell = heard_by(tracker)
    tell("on_train_begin")
    tell.close()
    tell.close()
    assert tracker.told[1:] == [("finish", True)]


def test_a_resumed_run_goes_on_in_the_same_one_and_a_second_training_does_not() -> None:
    first = Recorder()
    tell = heard_by(first)
    tell("on_train_begin")
    saved = json.loads(json.dumps(tell.state_dict()))
    assert saved["Recorder"]["attributes"] == {"run_id": "run-1"}
    second = Recorder()
    tell = heard_by(second, global_step=4)
    tell.load_state_dict(saved)
    tell("on_train_begin")
    assert second.told == [("start", "run-1")]
    tell("on_train_end")
    tell.close()
    tell.state.global_step = 0
    tell("on_train_begin")
    assert second.told[-1] == ("start", None)


def test_a_result_outside_a_training_opens_the_run_again() -> None:
    tracker = Reopening()
    tell = heard_by(tracker)
    whole_training(tell)
    tracker.told.clear()
    tell("on_predict", metrics={"test_loss": 1.0})
    assert tracker.told == [("start", "run-1"), ("log", {"test/loss": 1.0}, 1), ("finish", False)]
    closed = Recorder()
    tell = heard_by(closed)
    tell("on_predict", metrics={"test_loss": 1.0})
    assert closed.told == []


def test_one_that_is_not_wanted_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reopening, "is_wanted", False)
    tracker = Reopening()
    tell = heard_by(tracker)
    whole_training(tell)
    tell("on_predict", metrics={"test_loss": 1.0})
    assert tracker.told == []


@pytest.mark.parametrize("word", ["1", "on", "Yes", "TRUE"])
def test_words_that_switch_on(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCH", word)
    assert switched_on("SWITCH")
    monkeypatch.setenv("SWITCH", "0")
    assert not switched_on("SWITCH")


def test_numbers_of_a_line_and_errors_in_a_sentence() -> None:
    line = {"step": 3, "loss": 1, "flag": True, "text": "a", "none": None, "evaluation": 2, "eval_a": 3}
    assert numbers(line) == {"loss": 1.0, "evaluation": 2.0, "eval_a": 3.0}
    assert rewritten(line) == {"train/loss": 1.0, "train/evaluation": 2.0, "eval/a": 3.0}
    assert shown(ValueError()) == "ValueError"
    assert len(shown(ValueError("x" * 999))) == 300


@pytest.mark.parametrize("name", TRACKERS)
def test_the_catalog_names_modules_and_options_with_defaults(name: str) -> None:
    options = options_of(TRACKERS, name, "")
    assert options.__module__ == f"callbacks.trackers.{name}", "messages name it so"
    assert isinstance(options().package, Package)
    assert isinstance(options(), Tracker)


def test_options_of_trackers_need_neither_torch_nor_their_packages() -> None:
    code = (
        "import sys; from callbacks.trackers import TRACKERS; from conf.plugins import options_of;"
        "[options_of(TRACKERS, name, '')() for name in TRACKERS];"
        "print({'torch', 'wandb', 'mlflow', 'trackio', 'tensorboard'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_run_survives_a_tracker_and_not_one_that_cannot_start(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **named: Any) -> None:
        raise OSError("disk full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorBoardCallback, "log", broken)
        done = train(*tiny, "logging.report_to=tensorboard", "logging.logging_steps=1")
    assert done.status == 0
    assert done.err.count("tensorboard: it failed (disk full); the training goes on.") == 1
    plain = train(*tiny, "logging.logging_steps=1", "output_dir=plain")
    weights = (done.folder / "model.safetensors").read_bytes()
    assert weights == (plain.folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(TensorBoardCallback, "start", broken)
    refused = train(*tiny, "logging.report_to=tensorboard", "output_dir=refused")
    assert refused.status == 2
    assert "tensorboard: it could not start (disk full)" in str(refused.error)
    assert not list(refused.folder.glob("checkpoint-*"))


def test_a_model_is_written_with_its_processor(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    done = train(*tiny)
    given = done.run.callbacks.given
    save_model(tmp_path / "kept", given["model"], given["processing_class"])
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "kept" / name).read_bytes() == (done.folder / name).read_bytes()


@pytest.mark.stress  # real processes, twenty seconds
def test_four_at_once_change_nothing_and_go_on_after_a_resume(
    train: Any, train_in_process_of_its_own: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    """The real packages in a real command: same weights to the last bit, no token anywhere, one run each."""
    folder = tmp_path / "trackers"
    env = {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": TOKEN,
    }
    folder.mkdir()
    words = [*tiny, "logging.report_to=[tensorboard,wandb,mlflow,trackio]", "logging.logging_steps=1"]
    for more in (("training.max_steps=2",), ("training.max_steps=3", "resume=auto")):
        done = train_in_process_of_its_own(*words, *more, "output_dir=run", env=env)
        assert done.status == 0, done.err
    plain = [*tiny, "logging.logging_steps=1", "output_dir=plain"]
    train(*plain, "training.max_steps=2")
    train(*plain, "training.max_steps=3", "resume=auto")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (
        tmp_path / "plain/model.safetensors"
    ).read_bytes()
    assert [f for f in tmp_path.rglob("*") if f.is_file() and TOKEN.encode() in f.read_bytes()] == []
    states = [
        json.loads((tmp_path / f"run/checkpoint-{step}/trainer_state.json").read_text())["stateful_callbacks"]
        for step in (2, 3)
    ]
    for name in ("WandbCallback", "MLflowCallback", "TrackioCallback"):
        ids = {state[name]["attributes"]["run_id"] for state in states}
        assert len(ids) == 1
        assert None not in ids
