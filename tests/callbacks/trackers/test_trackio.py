"""Trackio in a folder of the test's own, read back with its own storage."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trackio
from trackio import context_vars

from callbacks.trackers.trackio import TrackioCallback
from tests.callbacks.trackers.test_tracker import ROOT, TOKEN, heard_by, whole_training

# In a process of its own, since the package reads TRACKIO_DIR when it is imported.
PROGRAM = """
import json
import threading
from callbacks.trackers.trackio import TrackioCallback
from tests.callbacks.trackers.test_tracker import heard_by, whole_training

first = TrackioCallback(auto_log_cpu=False)
tell = heard_by(first)
tell.args.run_name = None
whole_training(tell)
again = heard_by(TrackioCallback(auto_log_cpu=False), global_step=1)
again.args.run_name = None
again.load_state_dict(tell.state_dict())
again("on_train_begin")
again.state.global_step = 2
again("on_log", logs={"loss": 1.0})
again("on_train_end")
again.close()
again("on_predict", metrics={"test_loss": 4.0})
named = heard_by(TrackioCallback(auto_log_cpu=False))
for _ in range(2):
    named.state.global_step = 0
    whole_training(named)

from trackio.sqlite_storage import SQLiteStorage
records = SQLiteStorage.get_run_records("stockpot")
print("READ" + json.dumps({
    "run_id": first.run_id,
    "names": [record["name"] for record in records],
    "logs": SQLiteStorage.get_logs("stockpot", first.run_id),
    "config": SQLiteStorage.get_run_config("stockpot", first.run_id),
    "threads": [thread.name for thread in threading.enumerate()],
}))
"""


def test_a_run_its_resume_and_a_later_result(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TRACKIO_DIR": str(tmp_path / "trackio"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.rpartition("READ")[2])
    assert read["names"].count(read["run_id"]) == 1
    assert read["names"].count("mine") == 2, "a second training is another run, of the same name"
    lines = read["logs"]
    losses = {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}
    assert losses == {1: 2.0, 2: 1.0}
    assert [line["test/loss"] for line in lines if "test/loss" in line] == [4.0]
    assert [line["train/train_runtime"] for line in lines if "train/train_runtime" in line] == [3.0]
    (loss,) = [float(line["eval/loss"]) for line in lines if "eval/loss" in line]
    assert math.isnan(loss)
    assert (read["config"]["hidden_size"], read["config"]["model/num_parameters"]) == (8, 12)
    assert read["threads"] == ["MainThread"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]


class Double:
    """Stands in for the package's functions; every call must be one that the real one takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        import inspect

        self.calls: list[tuple[str, dict[str, Any]]] = []
        for name in ("init", "finish", "freeze", "sync"):
            signature = inspect.signature(getattr(trackio, name))
            monkeypatch.setattr(trackio, name, self.standing_in(name, signature))

    def standing_in(self, name: str, signature: Any) -> Any:
        def call(**given: Any) -> Any:
            signature.bind(**given)
            self.calls.append((name, given))
            if name == "init":
                context_vars.current_space_id.set(given["space_id"] and f"me/{given['space_id']}")
            return self

        return call

    name = "a-run"

    def log(self, values: dict[str, float], step: int) -> None: ...


@pytest.mark.parametrize("space", [None, "board"])
def test_a_space_only_when_one_is_named(space: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    double = Double(monkeypatch)
    tell = heard_by(TrackioCallback())
    tell.args.trackio_space_id, tell.args.hub_private_repo, tell.args.use_cpu = space, True, True
    whole_training(tell)
    assert [name for name, _ in double.calls] == ["init", "finish"]
    given = double.calls[0][1]
    assert (given["project"], given["name"], given["resume"]) == ("stockpot", "mine", "never")
    assert (given["space_id"], given["private"]) == (space, True)
    assert (given["auto_log_gpu"], given["auto_log_cpu"]) == (False, None)
    assert not [name for name in given["config"] if name.startswith("_")]


@pytest.mark.parametrize("space", [None, "board"])
def test_a_fixed_picture_is_published_at_the_end(space: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    double = Double(monkeypatch)
    tell = heard_by(TrackioCallback(static_space_id="me/picture", bucket_id="me/data"))
    tell.args.trackio_space_id = space
    whole_training(tell)
    name, given = double.calls[-1]
    assert name == ("sync" if space is None else "freeze")
    assert given["space_id" if space is None else "new_space_id"] == "me/picture"
    assert (given["project"], given["private"]) == ("stockpot", None)
    if space is None:
        assert (given["sdk"], given["bucket_id"]) == ("static", "me/data")
    else:
        assert given["space_id"] == "me/board"
    double.calls.clear()
    tell("on_predict", metrics={"test_loss": 1.0})
    tell("on_train_begin")
    tell.close()  # the training raised
    assert [name for name, _ in double.calls] == ["init", "finish"] * 2
