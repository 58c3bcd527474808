"""The jobs of a sweep, best first: on the terminal, as ``leaderboard.csv`` and as ``leaderboard.html``.

With several metrics no order is the right one: jobs that none beats in everything (the Pareto front) have
rank 1, those that only jobs of the front beat rank 2, and so on.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.sweeps.options import Direction

CSV = "leaderboard.csv"
HTML = "leaderboard.html"
REPORT = "report.html"  # of a job, which the page links to

Line = Mapping[str, Any]  # of the ledger


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The ledger's lines in their order, each with its rank; one that has no result has none."""

    metrics: Mapping[str, Direction]
    ranked: Sequence[tuple[int | None, Line]]

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [dict(line) for _, line in self.ranked]

    @property
    def columns(self) -> list[str]:
        """The options in which jobs differ."""
        return list(dict.fromkeys(name for _, line in self.ranked for name in line["differences"]))

    def table(self) -> str:
        """For the terminal."""
        rows = [("rank", "job", *self.metrics, "differences")]
        for rank, line in self.ranked:
            values = [_shown(line.get(name)) for name in self.metrics]
            if line["status"] != 0:
                values[0] = f"{values[0]} ({_status(line)})" if values[0] else _status(line)
            own = " ".join(f"{name}={value}" for name, value in line["differences"].items())
            rows.append((_rank(rank), str(line["job"]), *values, own))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def write(self, folder: Path, title: str, notes: Sequence[tuple[str, str]]) -> None:
        """Put both files into the sweep's folder, each at once."""
        from callbacks.html_report.page import leaderboard_page

        page = leaderboard_page(
            title, self._page_rows(folder), metric=[*self.metrics], columns=self.columns, notes=notes
        )
        for name, text in ((HTML, page), (CSV, self.csv())):
            staged = folder / f"{name}.new"
            staged.write_text(text, encoding="utf-8", newline="")
            staged.replace(folder / name)

    def csv(self) -> str:
        """A line a job: rank, number, status, metrics, differences, folder."""
        text = io.StringIO()
        columns = self.columns
        writer = csv.writer(text)
        writer.writerow(["rank", "job", "status", *self.metrics, *columns, "folder"])
        for rank, line in self.ranked:
            values = [line.get(name, "") for name in self.metrics]
            differences = [line["differences"].get(name, "") for name in columns]
            writer.writerow([rank or "", line["job"], _status(line), *values, *differences, line["folder"]])
        return text.getvalue()

    def _page_rows(self, folder: Path) -> list[dict[str, Any]]:
        return [
            {
                "rank": rank,
                "job": line["job"],
                "status": _status(line),
                "values": {name: line[name] for name in self.metrics if name in line},
                "differences": line["differences"],
                "folder": report if (folder / report).is_file() else None,
            }
            for rank, line in self.ranked
            for report in (f"{line['job']}/{REPORT}",)
        ]


def leaderboard(lines: Sequence[Line], metrics: Mapping[str, Direction]) -> Leaderboard:
    """Rank the jobs by the metrics: those that finished, then those ended early, then the failed ones."""

    def key(line: Line) -> list[float]:
        return [_signed(line.get(name), direction) for name, direction in metrics.items()]

    finished = sorted(
        (line for line in lines if line["status"] == 0 and all(map(math.isfinite, key(line)))), key=key
    )
    ranks = _fronts([key(line) for line in finished]) if len(metrics) > 1 else range(1, len(finished) + 1)
    placed = sorted(zip(ranks, finished, strict=True), key=lambda pair: pair[0])
    others = [line for line in lines if not any(line is one for one in finished)]
    others.sort(key=lambda line: (line["status"] != "pruned", key(line)))
    return Leaderboard(metrics=metrics, ranked=[*placed, *((None, line) for line in others)])


def _fronts(points: Sequence[Sequence[float]]) -> list[int]:
    """For each point, less being better, how many times the front must be taken away until it is in it."""
    ranks = [0] * len(points)
    left, front = set(range(len(points))), 0
    while left:
        front += 1
        best = {i for i in left if not any(_beats(points[j], points[i]) for j in left)}
        for i in best:
            ranks[i] = front
        left -= best
    return ranks


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return list(one) != list(other) and all(a <= b for a, b in zip(one, other, strict=True))


def _signed(value: Any, direction: Direction) -> float:
    """A value such that less is better; what is none is the worst."""
    if value is None or math.isnan(value):
        return math.inf
    return float(value) if direction == "minimize" else -float(value)


def _status(line: Line) -> str:
    status = line["status"]
    return "finished" if status == 0 else status if status == "pruned" else f"failed ({status})"


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}"


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)
