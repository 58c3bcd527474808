"""SwanLab without a network: the folders in which it keeps a run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import swanlab
import yaml

from callbacks.trackers.swanlab import SwanLabCallback
from tests.callbacks.trackers.test_tracker import ROOT, TOKEN, heard_by, whole_training


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, nothing of the machine's, and no run left open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWANLAB_SAVE_DIR", str(tmp_path / "home"))
    for name in ("PROJECT", "RUN_ID", "RESUME", "LOG_MODEL"):
        monkeypatch.delenv(f"SWANLAB_{name}", raising=False)
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(tmp_path / "logs"))
    yield
    assert not swanlab.has_run()
    assert [thread for thread in threading.enumerate() if not thread.daemon] == [threading.main_thread()]


def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], int]]:
    """What the run is given from now on, (values, step); it goes on to SwanLab all the same."""
    told: list[tuple[dict[str, Any], int]] = []
    log = swanlab.log

    def watched(data: dict[str, Any], step: int) -> Any:
        told.append((data, step))
        return log(data, step=step)

    monkeypatch.setattr(swanlab, "log", watched)
    return told


def run_folders(folder: Path) -> list[Path]:
    return sorted((folder / "logs").glob("run-*"))


def test_what_a_run_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = logged(monkeypatch)
    tracker = SwanLabCallback()
    whole_training(heard_by(tracker, tmp_path))
    (values, step), summary = told
    assert math.isnan(values.pop("eval/loss"))
    assert (values, step) == ({"train/epoch": 0.5, "train/loss": 2.0, "train/global_step": 1}, 1)
    assert summary == ({"single_value/train_loss": 2.0, "single_value/train_runtime": 3.0}, 1)
    (folder,) = run_folders(tmp_path)
    content = (folder / f"run-{tracker.run_id}.swanlab").read_bytes()
    assert all(
        name in content for name in (b"train/loss", b"single_value/train_runtime", b"stockpot", b"mine")
    )
    config = yaml.safe_load((folder / "files" / "config.yaml").read_text())
    assert config["hidden_size"]["value"] == 8
    assert config["hub_token"]["value"] == "<HUB_TOKEN>"


def test_a_resumed_run_goes_on_in_the_same_one(tmp_path: Path) -> None:
    first = SwanLabCallback()
    tell = heard_by(first, tmp_path)
    tell("on_train_begin")
    saved = json.loads(json.dumps(tell.state_dict()))
    tell.close()
    second = SwanLabCallback()
    tell = heard_by(second, tmp_path, global_step=4)
    tell.load_state_dict(saved)
    assert second._identity(tell.args, tell.state)["resume"] == "allow"
    tell("on_train_begin")
    tell.close()
    assert first.run_id == second.run_id


def test_the_options_win_over_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    tell = heard_by(SwanLabCallback())

    def identity(tracker: SwanLabCallback) -> dict[str, Any]:
        found = tracker._identity(tell.args, tell.state)
        return {name: value for name, value in found.items() if value is not None}

    assert identity(SwanLabCallback()) == {"project": "stockpot", "name": "mine"}
    for name, value in (("PROJECT", "p"), ("RUN_ID", "r"), ("RESUME", "must")):
        monkeypatch.setenv(f"SWANLAB_{name}", value)
    of_variables = {"project": "p", "name": "mine", "id": "r", "resume": "must"}
    assert identity(SwanLabCallback()) == of_variables
    options = {
        "project": "mine",
        "mode": "cloud",
        "log_dir": "there",
        "existing_run_id": "s",
        "resume": "never",
    }
    assert identity(SwanLabCallback(**options)) == {
        "project": "mine", "name": "mine", "mode": "online", "log_dir": "there", "id": "s", "resume": "never"
    }  # fmt: skip
    tell.state.trial_name = "trial 3"
    assert identity(SwanLabCallback())["name"] == "mine-trial 3"


def test_the_project_of_the_variable_that_swanlab_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWANLAB_PROJECT", "of-the-variable")
    monkeypatch.setenv("SWANLAB_LOG_MODEL", "true")
    tell = heard_by(SwanLabCallback(api_host="https://swanlab.example"), tmp_path)
    tell("on_train_begin")
    settings = swanlab.get_run()._ctx.config.settings
    tell.close()
    assert (settings.project.name, settings.mode) == ("of-the-variable", "offline")
    assert settings.api_host.startswith("https://swanlab.example")
    assert str(settings.log_dir) == str(tmp_path / "logs")


def test_how_a_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    finish = swanlab.finish
    monkeypatch.setattr(swanlab, "finish", lambda state: (ends.append(state), finish(state=state)))
    whole_training(heard_by(SwanLabCallback(mode="disabled"), tmp_path))
    tell = heard_by(SwanLabCallback(mode="disabled"), tmp_path)
    tell("on_train_begin")
    tell.close()
    tell.close()
    assert ends == ["success", "crashed"]
    assert run_folders(tmp_path) == []


def test_a_run_of_the_program_is_used_and_left_open(tmp_path: Path) -> None:
    own = swanlab.init(mode="disabled")
    try:
        tracker = SwanLabCallback()
        whole_training(heard_by(tracker, tmp_path))
        assert swanlab.get_run() is own
        assert tracker.run_id == own.id
    finally:
        swanlab.finish()


PROGRAM = """
from pathlib import Path
from callbacks.trackers.swanlab import SwanLabCallback
from tests.callbacks.trackers.test_tracker import heard_by, whole_training
whole_training(heard_by(SwanLabCallback(), Path.cwd()))
"""


@pytest.mark.parametrize("word", [TOKEN, "nothing"])
def test_a_token_of_the_command_is_in_no_file(tmp_path: Path, word: str) -> None:
    (tmp_path / "mine.py").write_text(PROGRAM)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "SWANLAB_MODE": "offline",
        "SWANLAB_LOG_DIR": str(tmp_path / "logs"),
    }
    command = [sys.executable, "mine.py", "--hub_token", word]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True)
    (folder,) = run_folders(tmp_path)
    files = [file for file in folder.rglob("*") if file.is_file()]
    found = [file.name for file in files if b"hub_token " + word.encode() in file.read_bytes()]
    assert bool(found) == (word != TOKEN), "a command without a token is told"
