"""DagsHub, its repository a double with the signatures of dagshub 0.7, its store one of MLflow in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest

from callbacks.trackers.dagshub import DagsHubCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import heard_by, whole_training

URI = "https://dagshub.com/us/model.mlflow"


class DataSet:
    """Signatures as recorded from the package with ``inspect``."""

    def __init__(self, repo: Repo, directory: str):
        self.repo, self.path = repo, directory

    def add_dir(
        self, local_path: str, glob_exclude: str = "", commit_message: Any = None, **upload_kwargs: Any
    ) -> None:
        self.repo.uploads.append((self.path, local_path))


class Repo:
    """A repository that writes down what is uploaded."""

    made: list[Repo]

    def __init__(
        self,
        owner: str,
        name: str,
        username: str | None = None,
        password: str | None = None,
        token: str | None = None,
        branch: str | None = None,
    ):
        self.where, self.uploads = (owner, name, branch), list[tuple[str, str]]()
        Repo.made.append(self)

    def directory(self, path: str) -> DataSet:
        return DataSet(self, path)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's double; what goes to the store of ``URI`` goes to a file."""
    monkeypatch.chdir(tmp_path)
    for name in ("dagshub", "dagshub.upload"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["dagshub.upload"].Repo = Repo  # type: ignore[attr-defined]
    monkeypatch.setattr(Repo, "made", [], raising=False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were set, while a file is the store."""
    monkeypatch.setattr(mlflow, "is_tracking_uri_set", lambda: False)
    to, asked = mlflow.set_tracking_uri, list[str]()

    def set_uri(uri: str) -> None:
        asked.append(uri)
        to(f"sqlite:///{tmp_path}/mlflow.db")

    monkeypatch.setattr(mlflow, "set_tracking_uri", set_uri)
    return asked


def test_a_run_and_its_folder(tmp_path: Path, store: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    monkeypatch.setenv("HF_DAGSHUB_LOG_ARTIFACTS", "1")
    monkeypatch.setenv("BRANCH", "side")
    tracker = DagsHubCallback()
    whole_training(heard_by(tracker, tmp_path / "run"))
    assert store == [URI]
    assert tracker.run_id is not None
    run = mlflow.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics["train/loss"]) == ("FINISHED", 2.0)
    (repo,) = Repo.made
    assert repo.where == ("us", "model", "side")
    assert repo.uploads == [("artifacts", str(tmp_path / "run"))]
    # The option wins; then there is no repository to talk to.
    whole_training(heard_by(DagsHubCallback(log_run_folder=False, tracking_uri=URI), tmp_path / "run"))
    assert len(Repo.made) == 1


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db", "https://dagshub.com/us/model"])
def test_a_store_that_is_none_of_dagshub(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(
        ConfigError, match=r"^callbacks\.dagshub: its store is not known; set MLFLOW_TRACKING"
    ):
        heard_by(DagsHubCallback())("on_train_begin")
    assert mlflow.active_run() is None
