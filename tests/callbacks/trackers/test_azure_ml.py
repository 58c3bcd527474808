"""Azure Machine Learning, told to a double with the signatures of azureml-core 1.61."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from callbacks.trackers.azure_ml import AzureMLCallback
from conf.errors import ConfigError
from tests.callbacks.trackers.test_tracker import heard_by, whole_training


class Run:
    """Signatures as recorded from the package with ``inspect``."""

    in_job = True

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    @classmethod
    def get_context(
        cls, allow_offline: bool = True, used_for_context_manager: bool = False, **kwargs: Any
    ) -> Run:
        assert not kwargs
        if not cls.in_job and not allow_offline:
            raise RuntimeError("Could not load the run context")
        cls.made = cls()
        return cls.made

    def log(self, name: str, value: Any, description: str = "", step: int | None = None) -> None:
        self.told.append((name, value, description, step))

    def flush(self, timeout_seconds: int = 300) -> None:
        self.told.append(("flush",))


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("azureml", "azureml.core", "azureml.core.run")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].Run = Run  # type: ignore[attr-defined]
    monkeypatch.setattr(Run, "in_job", True)


def test_metrics_go_to_the_run_of_the_job() -> None:
    whole_training(heard_by(AzureMLCallback()))
    told = {line[0]: line[1:] for line in Run.made.told}
    assert told["train/loss"] == (2.0, "train/loss", 1)
    assert told["train/train_runtime"] == (3.0, "train/train_runtime", 1)
    assert Run.made.told[-1] == ("flush",)
    assert len(Run.made.told) == 6


def test_a_run_that_is_given_is_used() -> None:
    run = Run()
    whole_training(heard_by(AzureMLCallback(azureml_run=run)))
    assert run.told[0] == ("train/epoch", 0.5, "train/epoch", 1)


def test_outside_a_job_it_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "in_job", False)
    with pytest.raises(
        ConfigError, match=r"^azure_ml: it could not start \(Could not load the run context\)"
    ):
        heard_by(AzureMLCallback())("on_train_begin")
