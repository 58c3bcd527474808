"""Flyte against a double of its packages, whose signatures are those of flytekit 1.16."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from callbacks.trackers import flyte
from callbacks.trackers.flyte import FlyteCallback
from conf.errors import ConfigError
from conf.plugins import Package
from tests.callbacks.trackers.test_tracker import heard_by, whole_training


class Checkpoint:
    """Of a task."""

    def save(self, cp: Path | str) -> None:
        told.append(("save", cp))


class Context:
    """Of a task, or what there is outside of one."""

    def __init__(self, inside: bool):
        self.inside = inside

    @property
    def checkpoint(self) -> Checkpoint:
        if not self.inside:
            raise NotImplementedError(
                "Checkpointing is not available, please check the version of the platform."
            )
        return Checkpoint()


class Deck:
    """A page of a task."""

    def __init__(self, name: str, html: str | None = "", auto_add_to_deck: bool = True):
        told.append(("deck", name, html))


class TableRenderer:
    """Of the standard decks."""

    def to_html(
        self, df: pd.DataFrame, header_labels: list[Any] | None = None, table_width: int | None = None
    ) -> str:
        return df.to_csv(index=False)


told: list[tuple[Any, ...]] = []


@pytest.fixture(autouse=True)
def context(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The packages; ``inside`` may be set to False."""
    told.clear()
    where = SimpleNamespace(inside=True)
    kit, plugins, deck, renderer = map(
        ModuleType,
        ("flytekit", "flytekitplugins", "flytekitplugins.deck", "flytekitplugins.deck.renderer"),
    )
    kit.current_context, kit.Deck = lambda: Context(where.inside), Deck  # type: ignore[attr-defined]
    renderer.TableRenderer = TableRenderer  # type: ignore[attr-defined]
    for module in (kit, plugins, deck, renderer):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(flyte, "RENDERER", Package("json", extra="flyte"))
    return where


def test_checkpoints_and_the_log(tmp_path: Path) -> None:
    tell = heard_by(FlyteCallback(), tmp_path)
    tell.state.log_history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": float("nan")}]
    whole_training(tell)
    assert told == [
        ("save", tmp_path / "checkpoint-1"),
        ("deck", "Log History", "step,loss,eval_loss\n1,2.0,\n1,,\n"),
    ]


def test_each_can_be_left_out(tmp_path: Path, context: SimpleNamespace) -> None:
    whole_training(heard_by(FlyteCallback(save_log_history=False), tmp_path))
    context.inside = False
    whole_training(heard_by(FlyteCallback(sync_checkpoints=False), tmp_path))
    assert [each[0] for each in told] == ["save", "deck"]


def test_outside_a_task_it_does_not_start(tmp_path: Path, context: SimpleNamespace) -> None:
    context.inside = False
    with pytest.raises(ConfigError, match=r"^flyte: it could not start \(Checkpointing is not available"):
        heard_by(FlyteCallback(), tmp_path)("on_train_begin")


def test_without_the_package_of_decks_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flyte, "RENDERER", Package("no_such_package.deck", extra="flyte"))
    whole_training(heard_by(FlyteCallback(), tmp_path))
    assert told == [("save", tmp_path / "checkpoint-1")]
    assert capsys.readouterr().err == (
        "[stockpot] flyte: no deck will show the log: it needs the package no_such_package.deck; "
        "pip install 'stockpot[flyte]'.\n"
    )


def test_a_training_that_fails_has_no_deck(tmp_path: Path) -> None:
    tell = heard_by(FlyteCallback(), tmp_path)
    tell("on_train_begin")
    tell.close()
    assert told == []
