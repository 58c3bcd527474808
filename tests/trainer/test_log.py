"""The open window of a log line, and the file of all lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trainer.log import COUNTERS, LogWindow, MetricsFile, StepResult


def step(loss: float, weight: float, **options: Any) -> StepResult:
    values: dict[str, Any] = {"grad_norm": 1.0, "learning_rate": 0.1, "counters": dict.fromkeys(COUNTERS, 10)}
    return StepResult(**values | {"sums": {"loss": loss}, "weights": {"loss": weight}} | options)


def test_a_line_is_the_sum_over_the_weight_since_the_last_line() -> None:
    window = LogWindow()
    window.add(step(6.0, 2))
    window.add(step(4.0, 8, grad_norm=3.0, learning_rate=0.05))
    assert not window.is_empty
    counters = dict.fromkeys(COUNTERS, 20)
    assert window.line() == {"loss": 1.0, "learning_rate": 0.05, "grad_norm": 3.0, **counters}
    assert window.is_empty
    window.add(step(9.0, 3))
    line = window.line()
    assert line["loss"] == 3.0
    assert line["tokens_supervised"] == 30, "counters run on"
    assert window.mean_loss == pytest.approx(19 / 13)


def test_a_term_that_nothing_counted_for_is_left_out() -> None:
    window = LogWindow()
    window.add(step(0, 0, sums={"mlm": 2.0, "nsp": 0.0}, weights={"mlm": 4.0, "nsp": 0.0}))
    line = window.line()
    assert line["mlm"] == 0.5
    assert "nsp" not in line


def test_a_window_goes_on_where_it_was_saved() -> None:
    one, other = LogWindow(), LogWindow()
    one.add(step(6.0, 2))
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for window in (one, other):
        window.add(step(4.0, 8))
    assert one.line() == other.line()
    assert one.mean_loss == other.mean_loss


def test_saving_does_not_share_what_goes_on_changing() -> None:
    window = LogWindow()
    window.add(step(6.0, 2))
    saved = json.dumps(window.state_dict())
    window.add(step(4.0, 8))
    assert json.dumps(window.state_dict()) != saved


def test_nan_and_infinity_are_kept(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": math.nan, "grad_norm": math.inf})
    (line,) = (json.loads(text) for text in file.path.read_text().splitlines())
    assert math.isnan(line["loss"])
    assert line["grad_norm"] == math.inf


def test_cutting_keeps_what_a_resumed_run_goes_on_from(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for number in (1, 2, 3, 4):
        file.append({"step": number, "loss": 0.5})
        file.append({"step": number, "eval_loss": math.nan})
    before = file.path.read_text().splitlines()
    with file.path.open("a") as opened:
        opened.write('{"step": 5, "lo')
    file.cut_after(3)
    assert file.path.read_text().splitlines() == before[:6]
    assert file.path.read_text().endswith("\n")
    file.append({"step": 4, "loss": 0.25})
    assert json.loads(file.path.read_text().splitlines()[-1]) == {"step": 4, "loss": 0.25}
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_cut_short_below_the_step_is_dropped_too(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss"')
    file.cut_after(10)
    assert file.path.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_cutting_a_file_that_is_not_there_makes_none(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").cut_after(3)
    assert list(tmp_path.iterdir()) == []
