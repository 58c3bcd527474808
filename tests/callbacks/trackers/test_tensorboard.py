"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.trackers.tensorboard import TensorBoardCallback
from tests.callbacks.trackers.test_tracker import TOKEN, heard_by


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def test_numbers_and_the_configuration(tmp_path: Path) -> None:
    tell = heard_by(TensorBoardCallback(), tmp_path)
    tell("on_train_begin")
    for step, loss in ((1, 2.0), (2, float("nan"))):
        tell.state.global_step = step
        tell("on_log", logs={"loss": loss, "eval_loss": 3.0})
    tell("on_log", logs={"train_runtime": 5.0})
    tell("on_train_end")
    tell.close()
    folder = tmp_path / "tensorboard"
    (first, second) = points(folder, "train/loss")
    assert first == (1, 2.0)
    assert second[0] == 2
    assert math.isnan(second[1])
    assert points(folder, "eval/loss") == [(1, 3.0), (2, 3.0)]
    assert points(folder, "train/train_runtime") == [(2, 5.0)]
    text = read(folder).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    config = json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
    assert (config["run_name"], config["hidden_size"]) == ("mine", 8)
    assert TOKEN not in text


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    for start, steps, loss in ((0, (1, 2, 3, 4), 1.0), (2, (3,), 5.0)):
        tell = heard_by(TensorBoardCallback(), tmp_path, global_step=start)
        tell("on_train_begin")
        for step in steps:
            tell.state.global_step = step
            tell("on_log", logs={"loss": loss})
        tell.close()
    assert points(tmp_path / "tensorboard", "train/loss") == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_a_result_after_the_training_is_added(tmp_path: Path) -> None:
    tell = heard_by(TensorBoardCallback(), tmp_path)
    tell("on_train_begin")
    tell.state.global_step = 2
    tell("on_log", logs={"loss": 1.0})
    tell("on_train_end")
    tell.close()
    tell("on_predict", metrics={"test_loss": 4.0})
    assert points(tmp_path / "tensorboard", "test/loss") == [(2, 4.0)]
    assert points(tmp_path / "tensorboard", "train/loss") == [(2, 1.0)]


def test_where_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option wins over the argument, that over the variable, that over the run folder."""
    for name in ("variable", "argument", "option"):
        if name == "variable":
            monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "~/variable")
            monkeypatch.setenv("HOME", str(tmp_path))
        tracker = TensorBoardCallback(log_dir=str(tmp_path / "option") if name == "option" else None)
        tell = heard_by(tracker, tmp_path / "run")
        tell.args.logging_dir = None if name == "variable" else str(tmp_path / "argument")
        tell("on_train_begin")
        tell.close()
        assert list((tmp_path / name).glob("events.*"))
    assert not (tmp_path / "run").exists()


def test_a_real_run_says_what_its_metrics_file_says(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "callbacks.tensorboard={}", "logging.logging_steps=1")
    assert done.status == 0, done.error
    told = points(done.folder / "tensorboard", "train/loss")
    written = [(line["step"], line["loss"]) for line in done.metrics if "loss" in line]
    assert [step for step, _ in told] == [step for step, _ in written] == [1, 2]
    assert [value for _, value in told] == pytest.approx([value for _, value in written], rel=1e-6)
