"""The ranking of a sweep's jobs, and the forms it is shown in."""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.sweeps.leaderboard import leaderboard
from trainer.sweeps.options import Direction

LOSS: Mapping[str, Direction] = {"eval_loss": "minimize"}
BOTH: Mapping[str, Direction] = {"eval_loss": "minimize", "eval_accuracy": "maximize"}


def line(job: int, loss: float | None = None, status: int | str = 0, **more: float) -> dict[str, Any]:
    found: dict[str, Any] = {"job": job, "status": status, "folder": f"s/{job}", "differences": {"a.b": job}}
    return found | ({} if loss is None else {"eval_loss": loss}) | more


def ranks(lines: list[dict[str, Any]], metrics: Mapping[str, Direction]) -> list[tuple[int | None, int]]:
    return [(rank, found["job"]) for rank, found in leaderboard(lines, metrics).ranked]


LINES = [
    line(0, 2.0),
    line(1, None, 3),
    line(2, 1.0),
    line(3, math.nan),
    line(4, 0.5, "pruned"),
    line(5, 1.5),
]


def test_the_best_comes_first_and_what_has_no_result_last() -> None:
    assert ranks(LINES, LOSS) == [(1, 2), (2, 5), (3, 0), (None, 4), (None, 1), (None, 3)]
    greater = [line(0, eval_accuracy=0.5), line(1, eval_accuracy=0.9)]
    assert ranks(greater, {"eval_accuracy": "maximize"}) == [(1, 1), (2, 0)]
    assert ranks([], LOSS) == []


def test_fronts_are_those_of_the_definition() -> None:
    draw = random.Random(0)
    lines = [line(i, draw.randint(0, 5), eval_accuracy=draw.randint(0, 5)) for i in range(40)]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        a, b = ((found["eval_loss"], -found["eval_accuracy"]) for found in (one, other))
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    found = leaderboard(lines, BOTH).ranked
    assert [rank for rank, _ in found] == sorted(rank for rank, _ in found if rank is not None)
    for rank, one in found:
        assert rank is not None
        beaten_by = [other_rank for other_rank, other in found if beats(other, one)]
        assert rank == 1 + max((each for each in beaten_by if each is not None), default=0)
    assert found[-1][0] > 2  # type: ignore[operator]


def test_the_table_shows_what_distinguishes_the_jobs() -> None:
    assert leaderboard(LINES[:5], LOSS).table().splitlines() == [
        "rank  job  eval_loss     differences",
        "1     2    1             a.b=2",
        "2     0    2             a.b=0",
        "-     4    0.5 (pruned)  a.b=4",
        "-     1    failed (3)    a.b=1",
        "-     3    nan           a.b=3",
    ]
    both = [line(0, 2.0, eval_accuracy=0.25), line(1, 1.0, eval_accuracy=0.125)]
    assert leaderboard(both, BOTH).table().splitlines() == [
        "rank  job  eval_loss  eval_accuracy  differences",
        "1     1    1          0.125          a.b=1",
        "1     0    2          0.25           a.b=0",
    ]


def test_the_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "report.html").touch()
    leaderboard(LINES, LOSS).write(tmp_path, "My sweep", [("Folder", "<s>")])
    rows = list(csv.reader((tmp_path / "leaderboard.csv").read_text().splitlines()))
    assert rows[0] == ["rank", "job", "status", "eval_loss", "a.b", "folder"]
    assert rows[1] == ["1", "2", "finished", "1.0", "2", "s/2"]
    assert rows[4:6] == [
        ["", "4", "pruned", "0.5", "4", "s/4"],
        ["", "1", "failed (3)", "", "1", "s/1"],
    ]
    page = (tmp_path / "leaderboard.html").read_text()
    assert "My sweep" in page
    assert "&lt;s&gt;" in page
    assert [f'href="./{job}/report.html"' in page for job in range(6)] == [False, False, True, *[False] * 3]
    assert {path.name for path in tmp_path.iterdir()} == {"2", "leaderboard.csv", "leaderboard.html"}


def test_jobs_may_differ_in_different_options() -> None:
    lines = [line(0, 1.0) | {"differences": {"a": 1}}, line(1, 2.0) | {"differences": {"b": "x,y"}}]
    board = leaderboard(lines, LOSS)
    assert board.columns == ["a", "b"]
    assert list(itertools.islice(csv.reader(board.csv().splitlines()), 1, None)) == [
        ["1", "0", "finished", "1.0", "1", "", "s/0"],
        ["2", "1", "finished", "2.0", "", "x,y", "s/1"],
    ]
