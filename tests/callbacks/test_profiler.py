"""Recordings of a few steps: which, in which files, and that they end."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks import ProfilerCallback
from tests.trainer.small_program import listening, program, trained, weights


def recorded(folder: Path, steps: int, **options: Any) -> Any:
    return trained(folder, max_steps=steps, parts={"callbacks": [ProfilerCallback(**options)]})


def files(trainer: Any) -> list[str]:
    return sorted(path.name for path in (trainer.output_dir / "profile").glob("*"))


@pytest.mark.parametrize(
    ("options", "steps", "names"),
    [
        ({}, 7, ["steps-3-5.json"]),
        ({"wait": 0, "warmup": 1, "active": 1, "repeat": 2}, 7, ["steps-2-2.json", "steps-4-4.json"]),
        (
            {"wait": 0, "warmup": 0, "active": 2, "repeat": 0},
            5,
            ["steps-1-2.json", "steps-3-4.json", "steps-5-5.json"],
        ),
        ({"wait": 0, "warmup": 0, "active": 2}, 2, ["steps-1-2.json"]),
        (
            {"wait": 0, "warmup": 0, "active": 2, "repeat": 0},
            4,
            ["steps-1-2.json", "steps-3-4.json"],
        ),
        ({"active": 5}, 4, ["steps-3-4.json"]),
    ],
    ids=["once", "twice", "again and again", "to the end", "up to the end", "cut short"],
)
def test_the_steps_asked_for_are_recorded(
    options: dict[str, int], steps: int, names: list[str], tmp_path: Path, capsys: Any
) -> None:
    trainer = recorded(tmp_path, steps, **options)
    assert files(trainer) == names
    for name in names:
        trace = json.loads((trainer.output_dir / "profile" / name).read_text())
        seen = [event["name"] for event in trace["traceEvents"]]
        first, last = map(int, re.findall(r"\d+", name))
        assert seen.count("Optimizer.step#AdamW.step") == last - first + 1, "one update a step"
        assert "aten::mm" in seen or "aten::addmm" in seen
    out = capsys.readouterr().out
    assert out.count("the costliest operators of steps") == len(names)
    assert "Self CPU %" in out


def test_the_training_is_the_same(tmp_path: Path) -> None:
    assert torch.equal(weights(recorded(tmp_path, 4)), weights(trained(tmp_path, max_steps=4)))


def test_a_training_too_short_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "stockpot"):
        trainer = recorded(tmp_path, 2)
    assert files(trainer) == []
    assert "ended before a step was recorded; it begins with step 3." in caplog.text


def test_an_error_in_between_ends_the_profiler(tmp_path: Path) -> None:
    def breaks(state: Any) -> None:
        if state.global_step == 3:
            raise RuntimeError("in between")

    callback = ProfilerCallback()
    made = program(tmp_path, max_steps=6, parts={"callbacks": [callback, listening(on_step_end=breaks)]})
    with pytest.raises(RuntimeError, match="in between"):
        made.train()
    assert files(made) == ["steps-3-3.json"]
    with torch.profiler.profile() as another:  # torch has one at a time
        torch.ones(2).sum()
    assert another.key_averages()


@pytest.mark.parametrize("name", ["wait", "warmup", "repeat"])
def test_counts_are_counts(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: at least 0 is wanted, -1 was given\.$"):
        ProfilerCallback(**{name: -1})


def test_something_is_recorded() -> None:
    with pytest.raises(ValueError, match=r"^active: at least 1 is wanted, 0 was given\.$"):
        ProfilerCallback(active=0)
