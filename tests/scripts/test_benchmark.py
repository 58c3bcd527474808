"""The benchmark's statistics, its table, and the two rows that are quick; nothing here is judged by time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from models import AutoConfig
from scripts.benchmarks import cli, overhead, packing
from scripts.benchmarks.material import write_material
from scripts.benchmarks.measure import ForeignLoad, Round, Spread, column, differences, ratios, run_rounds
from scripts.benchmarks.table import Bar, Result, Skipped, render

ROOT = Path(__file__).resolve().parents[2]


class Loads:
    """Stands in for the measured load: each window finds the next of these."""

    def __init__(self, cores: list[float]):
        self.left = iter(cores)

    def __call__(self) -> ForeignLoad:
        load = ForeignLoad()
        load.cores = lambda: next(self.left)  # type: ignore[method-assign]
        return load


def pair(a: float, b: float, foreign: float = 0.0) -> Round:
    return Round(samples={"a": {"s": a}, "b": {"s": b}}, foreign_cores=foreign)


def counting(calls: list[str], name: str) -> Iterator[int]:
    """Numbers its calls, and notes each."""
    for number in range(100):
        calls.append(name)
        yield number


def run_both(cores: list[float], count: int, spare: int | None = None) -> tuple[list[Round], list[str]]:
    calls: list[str] = []
    numbers = {name: counting(calls, name) for name in "ab"}
    contestants = {name: lambda name=name: {"s": next(numbers[name])} for name in "ab"}
    return run_rounds(contestants, count, spare=spare, load=Loads(cores)), calls


def test_contestants_take_turns() -> None:
    rounds, calls = run_both([0.0, 0.0, 0.0], 3)
    assert calls == ["a", "b"] * 3
    assert column(rounds, "b", "s") == [0, 1, 2]


def test_noisy_round_is_run_again_while_spare_rounds_last() -> None:
    rounds, calls = run_both([0.3, 0.01, 0.2, 0.4], 2, spare=2)
    assert len(calls) == 8
    assert [each.foreign_cores for each in rounds] == [
        0.01,
        0.2,
    ]  # the second: the quieter of two noisy tries
    assert column(rounds, "a", "s") == [1, 2]
    assert [each.is_noisy for each in rounds] == [False, True]


def test_no_spare_round_is_used_when_all_is_quiet() -> None:
    assert len(run_both([0.05, 0.05], 2)[1]) == 4


def test_ratios_and_differences_are_taken_within_rounds() -> None:
    rounds = [pair(2, 1), pair(30, 10), pair(8, 2)]
    assert ratios(rounds, "a", "b", "s") == Spread(median=3, low=2, high=4)
    assert differences(rounds, "a", "b", "s") == Spread(median=6, low=1, high=20)


def test_own_work_is_not_foreign() -> None:
    window = ForeignLoad()
    sum(range(10**6))
    assert 0 <= window.cores() < 1000


@pytest.mark.parametrize(
    ("sense", "value", "met"), [("<=", 1.4, True), ("<=", 1.41, False), (">=", 1.4, True)]
)
def test_bar_includes_its_own_value(sense: str, value: float, met: bool) -> None:
    assert Bar(value=1.4, sense=sense, unit="x").is_met(value) is met  # type: ignore[arg-type]


def test_table_shows_median_bar_and_noise() -> None:
    bar = Bar(value=1.4, sense="<=", unit="x")
    figure = Spread(median=1.25, low=1.2, high=1.5)
    quiet = Result(
        row="start", other="torch", ours="1 s", theirs="2 s", figure=figure, bar=bar, about="this."
    )
    noisy = Result(row="head", other="full", figure=Spread.of([2]), bar=bar, rounds=[pair(1, 1, foreign=0.2)])
    lines = render([quiet, noisy, Skipped(row="throughput", reason="no oracle.")]).splitlines()
    assert " ".join(lines[0].split()) == "row compared with ours theirs result (least .. most) bar met"
    assert " ".join(lines[1].split()) == "start torch 1 s 2 s 1.250 x (1.200 .. 1.500) <= 1.4 x yes"
    assert lines[2].split()[-2:] == ["NO", "(noisy)"]
    assert lines[3:6] == ["", "start: this.", "throughput: skipped, no oracle."]
    assert lines[6].startswith("noisy: ")


def test_packing_row() -> None:
    speed, fill = packing.measure(1, documents=20_000)
    assert speed.figure.median > 0
    assert fill.is_met
    assert fill.figure.median <= 100


def test_cli_row() -> None:
    *times, torch_imports = cli.measure(1)
    assert [each.other for each in times] == list(cli.COMMANDS)
    assert all(each.figure.median > 0 for each in times)
    assert torch_imports.is_met


def test_both_loops_of_the_overhead_train_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKPOT_CACHE", str(tmp_path))
    (result,) = overhead.measure(1, steps=3)  # it ends with an error unless the weights are bit-identical
    assert json.loads(json.dumps(result.to_dict()))["rounds"][0]["samples"].keys() == {"ours", "theirs"}


def test_material_is_the_prepared_data_of_a_run(tiny: Sequence[str], tmp_path: Path) -> None:
    material = write_material(tiny, tmp_path)
    offsets, ids = np.load(tmp_path / "offsets.npy"), np.load(tmp_path / "input_ids.npy")
    assert len(offsets) == material.documents + 1 == 845
    assert offsets[-1] == len(ids) == material.tokens
    assert np.diff(offsets).max() == material.longest == 128
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == 512


def test_an_unknown_row_is_named() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "pakcing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no row pakcing; there are overhead, start" in done.stderr
