"""ClearML without a network: the folders of its offline sessions."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clearml
import psutil
import pytest

from callbacks.trackers.clearml import ClearMLCallback
from tests.callbacks.trackers.test_tracker import ROOT, TOKEN, heard_by, whole_training

SINGLE = -(2**31)  # the step of a value that has none


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, and nothing left open: no task, no thread, no process."""
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path / "sessions"))
    for name in ("PROJECT", "TASK", "LOG_MODEL"):
        monkeypatch.delenv(f"CLEARML_{name}", raising=False)
    clearml.Task.set_offline(True)
    before, processes = set(threading.enumerate()), set(psutil.Process().children())
    yield
    assert clearml.Task.current_task() is None
    assert set(threading.enumerate()) <= before
    assert set(psutil.Process().children()) <= processes


def session(folder: Path, run_id: str | None) -> Path:
    assert run_id is not None
    return folder / "sessions" / "offline" / run_id


def scalars(path: Path) -> dict[tuple[str, str], tuple[int, float]]:
    """(title, series) -> (step, value)."""
    lines = (json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
    events = [event for line in lines for event in line if event["type"] == "training_stats_scalar"]
    named = {(each["metric"], each["variant"]): (each["iter"], each["value"]) for each in events}
    return {name: value for name, value in named.items() if not name[0].startswith(":monitor")}


def task(path: Path) -> dict[str, Any]:
    return json.loads((path / "task.json").read_text())


def test_what_a_task_holds(tmp_path: Path) -> None:
    tracker = ClearMLCallback()
    whole_training(heard_by(tracker, tmp_path))
    path = session(tmp_path, tracker.run_id)
    assert not clearml.Task._report_subprocess_enabled, "a process that it forks may hang when it is closed"
    assert scalars(path) == {
        ("train", "epoch"): (1, 0.5),
        ("train", "loss"): (1, 2.0),
        ("Summary", "train_loss"): (SINGLE, 2.0),
        ("Summary", "train_runtime"): (SINGLE, 3.0),
    }
    assert "eval/loss is nan at step 1" in (path / "log.jsonl").read_text()
    told = task(path)
    assert (told["project_name"], told["name"]) == ("stockpot", "mine")
    arguments = told["hyperparams"]["Arguments"]
    assert (arguments["run_name"]["value"], arguments["hub_token"]["value"]) == ("mine", "<HUB_TOKEN>")
    assert "hidden_size = 8" in told["configuration"]["Model Configuration"]["value"]


def test_a_training_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        clearml.Task, "mark_failed", lambda self, *, status_message: said.append(status_message)
    )
    tell = heard_by(ClearMLCallback(), tmp_path)
    tell("on_train_begin")
    tell.close()
    assert said == ["The training did not come to its end."]
    whole_training(heard_by(ClearMLCallback(), tmp_path))
    assert len(said) == 1


def test_which_task_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    args = heard_by(ClearMLCallback()).args

    def identity(tracker: ClearMLCallback) -> tuple[Any, ...]:
        names = ("project_name", "task_name", "reuse_last_task_id", "continue_last_task")
        return tuple(tracker._identity(args)[name] for name in names)

    assert identity(ClearMLCallback()) == ("stockpot", "mine", False, False)
    monkeypatch.setenv("CLEARML_PROJECT", "of the variable")
    monkeypatch.setenv("CLEARML_TASK", "this one")
    assert identity(ClearMLCallback(task="that one")) == ("of the variable", "that one", False, False)
    args.run_name = None
    monkeypatch.delenv("CLEARML_TASK")
    assert identity(ClearMLCallback(project="mine"))[:2] == ("mine", "Trainer")
    known = ClearMLCallback()
    known.run_id = "0123456789"
    again = identity(known)[2:]
    assert again == ("0123456789", 0)
    assert again[1] is not False, "0 says: that task, with its steps as they are"
    known.run_id = "offline-0123456789"
    assert identity(known)[2:] == (False, False)


def test_checkpoints_become_models_of_which_the_last_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    class OutputModel:
        """The package's own cannot be offline (2.1); these are its signatures."""

        def __init__(self, task: Any = None, config_text: Any = None, config_dict: Any = None,
                     label_enumeration: Any = None, name: str | None = None) -> None:  # fmt: skip
            self.name = name

        def update_weights_package(
            self, weights_filenames: Any = None, weights_path: str | None = None, upload_uri: Any = None,
            target_filename: str | None = None, auto_delete_file: bool = True, iteration: int | None = None,
            async_enable: bool = True,
        ) -> None:  # fmt: skip
            told.append((self.name, weights_path, target_filename, auto_delete_file, iteration))

    monkeypatch.setattr(clearml, "OutputModel", OutputModel)
    monkeypatch.setattr(
        clearml.Model, "remove", lambda model, delete_weights_file, force: told.append(("gone", model.name))
    )
    monkeypatch.setenv("CLEARML_LOG_MODEL", "true")
    tracker = ClearMLCallback()
    tell = heard_by(tracker, tmp_path)
    tell.args.save_total_limit = 1
    tell("on_train_begin")
    for tell.state.global_step in (1, 2):
        tell("on_save")
    tell("on_train_end")
    tell.close()
    paths = [str(tmp_path / f"checkpoint-{step}") for step in (1, 2)]
    assert told == [
        ("checkpoint-1", paths[0], "checkpoint-1", False, 1),
        ("checkpoint-2", paths[1], "checkpoint-2", False, 2),
        ("gone", "checkpoint-1"),
    ]
    told.clear()
    whole_training(heard_by(ClearMLCallback(log_model=False), tmp_path))
    assert told == []


def test_a_task_of_the_program_is_used_and_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearml.Task, "_report_subprocess_enabled", False)
    own = clearml.Task.init(project_name="mine", task_name="own", reuse_last_task_id=False)
    try:
        tracker = ClearMLCallback()
        whole_training(heard_by(tracker, tmp_path))
        assert tracker.run_id == own.id
        assert clearml.Task.current_task() is own
    finally:
        own.close()
    assert scalars(session(tmp_path, own.id))["train", "loss"] == (1, 2.0)


PROGRAM = """
from pathlib import Path
from callbacks.trackers.clearml import ClearMLCallback
from tests.callbacks.trackers.test_tracker import heard_by, whole_training
whole_training(heard_by(ClearMLCallback(), Path.cwd()))
"""


def test_a_token_of_the_command_is_in_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "CLEARML_CACHE_DIR": str(tmp_path / "sessions"),
        "CLEARML_OFFLINE_MODE": "1",
    }
    command = [sys.executable, "-m", "mine", "--hub_token", TOKEN, "--seed", "42"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    files = [file for file in (tmp_path / "sessions").rglob("*") if file.is_file()]
    assert [file.name for file in files if TOKEN.encode() in file.read_bytes()] == []
    (metrics,) = (tmp_path / "sessions").rglob("metrics.jsonl")
    assert math.isclose(scalars(metrics.parent)["train", "loss"][1], 2.0)
