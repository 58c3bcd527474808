"""Weights & Biases without a network: its run folders, read record by record."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from wandb.proto import wandb_internal_pb2

from callbacks.trackers.wandb import X_AXIS, WandbCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import TOKEN, heard_by, whole_training

BLOCK, HEAD = 32768, 7  # of the log format in which wandb keeps a run


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network and no noise; at the end its process is gone."""
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("CONSOLE", "off")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield
    wandb.teardown()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("wandb")] == []


class Saved(torch.nn.Linear):
    """A model that can be saved, as far as the tracker sees."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text("weights")


def runs(folder: Path) -> list[Path]:
    """The files of all runs, in the order in which they began; all that was sent is in them."""
    wandb.teardown()  # its process writes after a run is finished, too
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def records(path: Path, kind: str) -> list[Any]:
    """The records of one kind that a run's file holds."""
    data, at, whole, found = path.read_bytes(), HEAD, b"", []
    while at + HEAD <= len(data):
        if (left := BLOCK - at % BLOCK) < HEAD:
            at += left
            continue
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        whole += data[at + HEAD : at + HEAD + size]
        if data[at + 6] in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
        at += HEAD + size
    return found


def history(path: Path) -> list[dict[str, Any]]:
    lines = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.item}
        for record in records(path, "history")
    ]
    return [{key: value for key, value in line.items() if not key.startswith("_")} for line in lines]


def updates(path: Path, kind: str) -> dict[str, Any]:
    """What a run's configuration or summary has come to."""
    items = [item for record in records(path, kind) for item in record.update]
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_config_history_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", f"hub.hub_token={TOKEN}"])
    tracker = WandbCallback(tags=("a", "b"), entity="us", group="all")
    whole_training(heard_by(tracker, tmp_path))
    (run,) = runs(tmp_path)
    (about,) = records(run, "run")
    assert about.run_id == tracker.run_id
    assert (about.project, about.display_name, about.entity) == ("stockpot", "mine", "us")
    assert (list(about.tags), about.run_group) == (["a", "b"], "all")
    assert (updates(run, "config")["run_name"], updates(run, "config")["model/num_parameters"]) == (
        "mine",
        12,
    )
    (line,) = history(run)
    assert str(line.pop("eval/loss")) == "nan"
    assert line == {"train/epoch": 0.5, "train/loss": 2.0, X_AXIS: 1}
    assert updates(run, "summary")["train_runtime"] == 3.0
    steps = {each.name or each.glob_name: each.step_metric for each in records(run, "metric")}
    assert steps == {X_AXIS: "", "*": X_AXIS}
    assert records(run, "exit")[0].exit_code == 0
    assert [f for f in tmp_path.rglob("*") if f.is_file() and TOKEN.encode() in f.read_bytes()] == []
    assert wandb.run is None


def test_a_resumed_run_and_a_later_result_keep_the_id(tmp_path: Path) -> None:
    tracker = WandbCallback()
    tell = heard_by(tracker, tmp_path)
    tell("on_train_begin")
    tell.close()
    assert records(runs(tmp_path)[0], "exit")[0].exit_code == 1
    resumed = WandbCallback()
    again = heard_by(resumed, tmp_path, global_step=4)
    again.load_state_dict(tell.state_dict())
    whole_training(again)
    again("on_predict", metrics={"test_loss": 4.0})
    assert {path.name for path in runs(tmp_path)} == {f"run-{tracker.run_id}.wandb"}
    assert {"test/loss": 4.0, X_AXIS: 1} in [line for path in runs(tmp_path) for line in history(path)]


@pytest.mark.parametrize(("option", "variable", "project"), [("o", "v", "o"), (None, "v", "v")])
def test_the_project(
    option: str | None, variable: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", variable)
    tell = heard_by(WandbCallback(project=option), tmp_path, trial_name="trial 1")
    tell("on_train_begin")
    tell.close()
    (about,) = records(runs(tmp_path)[0], "run")
    assert (about.project, about.display_name, about.run_group) == (project, "trial 1", "mine")


@pytest.mark.parametrize(
    ("option", "variable", "aliases"),
    [
        (None, "checkpoint", [{"epoch_0.5", "checkpoint_global_step_1"}, {"final_model"}]),
        ("end", "checkpoint", [{"final_model"}]),
        (False, "checkpoint", []),
        (None, "", []),
    ],
)
def test_models_as_artifacts(
    option: Any, variable: str, aliases: list[set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_LOG_MODEL", variable)
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_text("weights")
    (checkpoint / "trainer_state.json").write_text("{}")
    tell = heard_by(WandbCallback(log_model=option), tmp_path, Saved(1, 1), epoch=0.5)
    whole_training(tell)
    artifacts = records(runs(tmp_path)[0], "artifact")
    assert [set(each.aliases) - {"latest"} for each in artifacts] == aliases
    assert {each.name for each in artifacts} <= {"model-mine"}
    if option == "end":
        assert [entry.path for entry in artifacts[0].manifest.contents] == ["model.safetensors"]
        about = json.loads(artifacts[0].metadata)
        assert (about["final_model"], about["train_loss"]) == (True, 2.0)
    if len(aliases) == 2:
        names = [entry.path for entry in artifacts[0].manifest.contents]
        assert names == ["model.safetensors", "trainer_state.json"]


def test_gradients_are_watched_and_no_hook_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_WATCH", "gradients")
    model = torch.nn.Linear(2, 2)
    tell = heard_by(WandbCallback(), tmp_path, model, logging_steps=1)
    tell("on_train_begin")
    for step in range(1, 102):
        tell.state.global_step = step
        model.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        tell("on_log", logs={"loss": 1.0})
    tell("on_train_end")
    tell.close()
    watched = {name for line in history(runs(tmp_path)[0]) for name in line if name.startswith("gradients")}
    assert {name.partition(".")[0] for name in watched} == {"gradients/weight", "gradients/bias"}
    assert not model._forward_hooks
    assert not model.weight._backward_hooks


def test_a_run_of_the_program_is_used_and_left_open(tmp_path: Path) -> None:
    own = wandb.init(project="own", dir=tmp_path)
    tracker = WandbCallback()
    whole_training(heard_by(tracker, tmp_path))
    assert (tracker.run_id, wandb.run) == (own.id, own)
    own.finish()
    assert len(history(runs(tmp_path)[0])) == 1


@pytest.mark.parametrize("name", ["WANDB_LOG_MODEL", "WANDB_WATCH"])
def test_a_word_that_a_variable_cannot_have(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "sometimes")
    with pytest.raises(ConfigError, match=rf"^{name}: 'sometimes' was given; one of .*, false would do\.$"):
        heard_by(WandbCallback(), tmp_path)("on_train_begin")
    assert wandb.run is None


def test_without_a_key_it_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^wandb: it could not start \(No API key"):
        heard_by(WandbCallback(mode="online"), tmp_path)("on_train_begin")
