"""MLflow with a store in a file, read back with its own client."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from callbacks.trackers.mlflow import MLflowCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import TOKEN, Model, heard_by, whole_training


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs; MLflow takes seconds to make one."""
    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    mlflow.set_tracking_uri(f"sqlite:///{file}")
    mlflow.set_experiment("Default")
    return file


@pytest.fixture(autouse=True)
def store(tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store of the test's own, whose runs are all ended."""
    monkeypatch.chdir(tmp_path)  # where artifacts go
    for name in ("mlflow.db", "other.db"):
        shutil.copy(tables, tmp_path / name)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("Default")
    yield uri
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(None)


def runs(*experiments: str) -> list[Run]:
    """All runs of the experiments, in the order in which they began."""
    found = mlflow.search_runs(experiment_names=list(experiments or ["Default"]), output_format="list")
    return sorted(found, key=lambda run: run.info.start_time)


def values(run: Run, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in history]


def test_parameters_metrics_and_status(tmp_path: Path) -> None:
    tracker = MLflowCallback(tags={"team": "us"})
    whole_training(heard_by(tracker, tmp_path / "run"))
    (run,) = runs()
    assert (run.info.run_id, run.info.run_name, run.info.status) == (tracker.run_id, "mine", "FINISHED")
    assert (run.data.params["hidden_size"], run.data.params["learning_rate"]) == ("8", "5e-05")
    assert len(run.data.params) > 100, "more than one request takes"
    assert TOKEN not in json.dumps(run.to_dictionary())
    assert run.data.tags["team"] == "us"
    assert values(run, "train/loss") == [(1, 2.0)]
    assert values(run, "train/train_runtime") == [(1, 3.0)]
    ((step, loss),) = values(run, "eval/loss")
    assert step == 1
    assert math.isnan(loss)
    assert not list(Path("mlruns").rglob("checkpoint-1"))


def test_a_failed_training_fails_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    tell = heard_by(MLflowCallback(), tmp_path)
    tell("on_train_begin")
    tell.close()
    assert runs()[0].info.status == "FAILED"
    again = heard_by(MLflowCallback(), tmp_path, global_step=4)
    again.load_state_dict(tell.state_dict())
    again.args.seed = 7  # a parameter that has a value keeps it: MLflow refuses another
    whole_training(again)
    again("on_predict", metrics={"test_loss": 4.0})
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "42"
    assert run.data.metrics["test/loss"] == 4.0


def test_the_active_run_is_used_and_left_open_or_holds_a_nested_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mlflow.start_run() as own:
        whole_training(heard_by(MLflowCallback(), tmp_path))
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == own.info.run_id
        assert len(runs()) == 1
        monkeypatch.setenv("MLFLOW_NESTED_RUN", "1")
        whole_training(heard_by(MLflowCallback(), tmp_path))
    nested = runs()[1]
    assert nested.data.tags["mlflow.parentRunId"] == own.info.run_id
    assert values(nested, "train/loss") == [(1, 2.0)]


@pytest.mark.parametrize("by_option", [True, False])
def test_store_experiment_and_tags(by_option: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/other.db"
    if not by_option:
        mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/at.db" if by_option else uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "variable")
    monkeypatch.setenv("MLFLOW_TAGS", '{"from": "variable"}')
    given: dict[str, Any] = {"tracking_uri": uri, "experiment_name": "option", "tags": {"from": "option"}}
    whole_training(heard_by(MLflowCallback(**given if by_option else {}), tmp_path))
    mlflow.set_tracking_uri(uri)
    (run,) = runs("option" if by_option else "variable")
    assert run.data.tags["from"] == ("option" if by_option else "variable")


def test_a_run_that_exists_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow.start_run() as own:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", own.info.run_id)
    whole_training(heard_by(MLflowCallback(), tmp_path))
    with mlflow.start_run() as another:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", own.info.run_id)
    whole_training(heard_by(MLflowCallback(existing_run_id=another.info.run_id), tmp_path))
    assert [values(run, "train/loss") for run in runs()] == [[(1, 2.0)], [(1, 2.0)]]


class LongModel(Model):
    """One with a nested and a long value in its configuration."""

    class config:  # noqa: N801
        to_dict = staticmethod(lambda: {"nested": {"a": 1}, "long": "x" * 7000, "odd (name)": 2})


def test_long_values_are_cut_with_a_warning_and_nested_ones_flat_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_training(heard_by(MLflowCallback(), tmp_path, LongModel()))
    assert "mlflow: long cut at 6000 characters" in capsys.readouterr().err
    whole_training(heard_by(MLflowCallback(flatten_params=True), tmp_path, LongModel()))
    plain, flat = (run.data.params for run in runs())
    assert (plain["nested"], flat["nested.a"]) == ("{'a': 1}", "1")
    assert len(plain["long"]) == 6000
    assert plain["odd _name_"] == "2"


@pytest.mark.parametrize(("option", "variable", "count"), [(3, "5", 3), (None, "5", 5), (0, "", 0)])
def test_no_more_parameters_than_wanted(
    option: int | None, variable: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_MAX_LOG_PARAMS", variable)
    whole_training(heard_by(MLflowCallback(max_log_params=option), tmp_path))
    assert len(runs()[0].data.params) == count


@pytest.mark.parametrize("option", [True, None])
def test_checkpoints_as_artifacts(
    option: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "FALSE" if option else "TRUE")
    checkpoint = tmp_path / "run/checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("weights")
    whole_training(heard_by(MLflowCallback(log_artifacts=option), tmp_path / "run"))
    (run,) = runs()
    files = mlflow.MlflowClient().list_artifacts(run.info.run_id, "checkpoint-1")
    assert [file.path for file in files] == ["checkpoint-1/model.safetensors"]


def test_a_variable_turns_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    whole_training(heard_by(MLflowCallback(), tmp_path))
    assert runs() == []


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("MLFLOW_TAGS", "{a", "it is no JSON object"),
        ("MLFLOW_TAGS", "[1]", "it is no JSON object"),
        ("MLFLOW_MAX_LOG_PARAMS", "many", "a whole number would do"),
    ],
)
def test_variables_that_say_nothing_it_knows(
    name: str, value: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}: .*{wanted}"):
        heard_by(MLflowCallback(), tmp_path)("on_train_begin")


def test_a_number_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^max_log_params: -1 was given"):
        MLflowCallback(max_log_params=-1)


def test_what_the_store_refuses_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = SqlAlchemyStore.log_batch

    def full(self: Any, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        if metrics:
            raise OSError("the store is full")
        original(self, run_id, metrics, params, tags)

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", full)
    tracker = MLflowCallback(tracking_uri=f"sqlite:///{tmp_path}/other.db")
    whole_training(heard_by(tracker, tmp_path))
    assert capsys.readouterr().err.count("mlflow: it failed (") == 1
    (run,) = runs()
    assert (run.info.run_id, run.info.status, run.data.metrics) == (tracker.run_id, "FINISHED", {})


def test_a_run_that_is_not_finite_is_a_failed_one(train: Any, tiny: Sequence[str], store: str) -> None:
    words = ("optimizer.learning_rate=1e30", "training.max_steps=4", "logging.logging_steps=1")
    done = train(*tiny, *words, f"callbacks.mlflow={{tracking_uri: '{store}'}}")
    assert done.status == 3, done.error
    (run,) = runs()
    assert run.info.status == "FAILED"
    told = values(run, "train/loss")
    written = [(line["step"], line["loss"]) for line in done.metrics if "loss" in line]
    assert told == written
    assert told
