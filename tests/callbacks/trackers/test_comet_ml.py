"""Comet without a network: the archives that its own upload would read."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import comet_ml
import pytest

from callbacks.trackers.comet_ml import CometCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import TOKEN, heard_by, whole_training


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, nothing of the machine's, and the archives in this test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("API_KEY", "EXPERIMENT_KEY", "MODE", "PROJECT_NAME", "LOG_ASSETS"):
        monkeypatch.delenv(f"COMET_{name}", raising=False)
    settings = {
        "START_ONLINE": "false",
        "OFFLINE_DIRECTORY": str(tmp_path / "archives"),
        "LOGGING_CONSOLE": "error",
        "DISPLAY_SUMMARY_LEVEL": "0",
        "AUTO_LOG_CODE": "false",
        "AUTO_LOG_ENV_DETAILS": "false",
        "AUTO_LOG_GIT_METADATA": "false",
        "AUTO_LOG_GIT_PATCH": "false",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"COMET_{name}", value)


def archives(folder: Path) -> list[Path]:
    """In the order in which they were closed."""
    return sorted((folder / "archives").glob("*.zip"), key=lambda file: file.stat().st_mtime_ns)


def messages(archive: Path, kind: str) -> list[dict[str, Any]]:
    """What the archive holds of one kind."""
    with ZipFile(archive) as content:
        lines = map(json.loads, content.read("messages.json").splitlines())
        return [line["payload"] for line in lines if line["type"] == kind]


def about(archive: Path) -> dict[str, Any]:
    with ZipFile(archive) as content:
        return json.loads(content.read("experiment.json"))


def test_what_an_experiment_holds(tmp_path: Path) -> None:
    tracker = CometCallback()
    whole_training(heard_by(tracker, tmp_path))
    (archive,) = archives(tmp_path)
    assert about(archive)["offline_id"] == tracker.run_id
    assert about(archive)["project_name"] == "stockpot"
    metrics = {each["metric"]["metricName"]: each["metric"] for each in messages(archive, "metric_msg")}
    loss = metrics["train/loss"]
    assert (float(loss["metricValue"]), loss["step"], loss["epoch"]) == (2.0, 1, 0.5)
    assert str(metrics["eval/loss"]["metricValue"]).lower() == "nan"
    assert float(metrics["train/train_runtime"]["metricValue"]) == 3.0
    told = [each["param"] for each in messages(archive, "parameter_msg") if "param" in each]
    params = {each["paramName"]: each["paramValue"] for each in told}
    assert (params["config|hidden_size"], params["args|run_name"]) == (8, "mine")
    assert params["args|hub_token"] == "<HUB_TOKEN>"
    assert comet_ml.get_running_experiment().ended
    left = [
        thread for thread in threading.enumerate() if not thread.daemon and "comet" in repr(thread).lower()
    ]
    assert left == []


def test_a_resumed_run_goes_on_in_its_experiment(tmp_path: Path) -> None:
    first = CometCallback()
    tell = heard_by(first, tmp_path)
    tell("on_train_begin")
    saved = tell.state_dict()
    tell.close()
    second = CometCallback(mode="create")
    tell = heard_by(second, tmp_path, global_step=4)
    tell.load_state_dict(saved)
    tell("on_train_begin")
    tell.close()
    assert [about(each)["offline_id"] for each in archives(tmp_path)] == [first.run_id] * 2
    assert second.run_id == first.run_id


def test_a_token_of_the_command_is_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_AUTO_LOG_ENV_DETAILS", "true")
    monkeypatch.setattr(sys, "argv", ["mine.py", "--hub_token", TOKEN])
    whole_training(heard_by(CometCallback(), tmp_path))
    (archive,) = archives(tmp_path)
    assert messages(archive, "installed_packages"), "what has no token in it is told"
    with ZipFile(archive) as content:
        assert all(TOKEN.encode() not in content.read(name) for name in content.namelist())


def test_the_options_win_over_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_PROJECT_NAME", "of the variable")
    (tmp_path / "notes.txt").write_text("read me")
    whole_training(heard_by(CometCallback(log_assets=True), tmp_path))
    whole_training(heard_by(CometCallback(project_name="of the option"), tmp_path))
    first, second = archives(tmp_path)
    assert [about(each)["project_name"] for each in (first, second)] == ["of the variable", "of the option"]
    names = [each["additional_params"]["fileName"] for each in messages(first, "file_upload")]
    assert any(name.endswith("notes.txt") for name in names)
    assert messages(second, "file_upload") == []


def test_an_unknown_mode_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_MODE", "sometimes")
    with pytest.raises(ConfigError, match=r"^COMET_MODE: 'sometimes' was given; one of get_or_create, get, "):
        heard_by(CometCallback(), tmp_path)("on_train_begin")


def test_a_trial_of_a_search_is_an_experiment_of_its_own(tmp_path: Path) -> None:
    tracker = CometCallback()
    trial = {"is_hyper_param_search": True, "trial_name": "trial 3", "trial_params": {"learning_rate": 0.5}}
    tell = heard_by(tracker, tmp_path, **trial)
    whole_training(tell)
    tell.state.global_step = 0
    whole_training(tell)
    first, second = archives(tmp_path)
    assert about(first)["offline_id"] != about(second)["offline_id"]
    assert about(first)["resume_strategy"] == "create"
    told = {each["key"]: each["value"] for each in messages(first, "log_other")}
    assert told["optimizer_id"] == "trial 3"


def test_an_experiment_of_the_program_is_used_and_left_open(tmp_path: Path) -> None:
    own = comet_ml.start(experiment_config=comet_ml.ExperimentConfig(auto_log_co2=False, name="mine"))
    tracker = CometCallback()
    try:
        whole_training(heard_by(tracker, tmp_path))
        assert not own.ended
        assert tracker.run_id == own.get_key()
    finally:
        own.end()
