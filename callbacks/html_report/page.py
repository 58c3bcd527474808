"""The pages themselves: the report of one run, and the leaderboard of a sweep.

Everything that is put into a template is escaped there. A page names nothing outside itself, and its own
policy lets a browser load nothing and run only the script that was written with it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import quote

from callbacks.html_report.charts import Chart, Point, Series, charts
from callbacks.html_report.history import Section, Table
from callbacks.html_report.scales import below_each_other

HERE = Path(__file__).resolve().parent
_NONE = "–"  # for what a row does not have
_TONES = {"finished": "good", "failed": "bad"}  # how a job ended -> how that is said


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A key figure: what it is, its value, and a few words on it."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Details:
    """A part that can be opened: names with texts, or one preformatted ``text``; ``source`` is its file."""

    title: str
    pairs: Sequence[tuple[str, str]] = ()
    text: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the report of a run tells. ``tone`` (good, wary, bad) colours its ``status``."""

    title: str
    folder: str
    status: str
    tone: str
    figures: Sequence[Figure]
    sections: Sequence[Section]
    evaluations: Table | None
    details: Sequence[Details]


def report_page(report: Report) -> str:
    """The HTML of a run's report."""
    return _page("report.html.j2", report.title, report=report)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the leaderboard; ``section`` is the part of a configuration path before its name."""

    name: str
    section: str = ""
    text: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows and the ``key`` it is sorted by; an empty key stays at the end."""

    label: str
    key: str
    text: bool = False
    link: str = ""
    tone: str = ""


_EMPTY = Cell(label=_NONE, key="")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A job of the leaderboard."""

    cells: Sequence[Cell]
    best: bool


@dataclass(frozen=True, kw_only=True)
class Board:
    """What the leaderboard tells."""

    tally: str
    charts: Sequence[Chart]
    columns: Sequence[Column]
    rows: Sequence[Row]
    marked: str
    notes: Sequence[tuple[str, str]]


def leaderboard_page(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: str | Sequence[str],
    columns: Sequence[str],
    notes: Sequence[tuple[str, str]],
) -> str:
    """The HTML of a sweep's leaderboard, its rows in the order given.

    A row has ``rank`` (None for a job without one; all of rank 1 are marked as the best), ``job`` (its
    number), ``status`` ("finished", "failed (2)", "pruned"), ``values`` (metric -> number), ``differences``
    (path -> value of its configuration) and ``folder``, a link to its report relative to the page, if it has
    one. ``metric`` are the metrics shown, ``columns`` the paths, ``notes`` names with texts.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    kinds = Counter(map(_kind, rows))
    jobs = f"{len(rows):,} job{'' if len(rows) == 1 else 's'}"
    tally = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    best = [row for row in rows if row["rank"] == 1]
    is_front = len(metrics) > 1 and len(best) > 1
    board = Board(
        tally=f"{jobs}{': ' if tally else ''}{tally}. Ranked by {' and '.join(metrics)}.",
        charts=[one for name in metrics for one in _by_job(name, rows)],
        columns=[
            *map(_named, ("rank", "job", "status")),
            *(Column(name=name) for name in metrics),
            *(_path(name, rows) for name in columns),
        ],
        rows=list(_rows(rows, metrics, columns)),
        marked="The marked jobs are the Pareto front: none is better than them in every metric."
        if is_front
        else "",
        notes=notes,
    )
    return _page("leaderboard.html.j2", title, board=board)


def _by_job(metric: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """A chart of one metric, a point a job, in the colours of how they ended and of the best."""
    points: dict[str, list[Point]] = {"best": []}  # first, so that it always has the same colour
    for row in sorted(rows, key=lambda row: row["job"]):
        if _is_number(value := row["values"].get(metric)):
            kind = "best" if row["rank"] == 1 else _kind(row)
            points.setdefault(kind, []).append((float(row["job"]), float(value)))
    series = [Series(name=kind, points=found, linked=False) for kind, found in points.items()]
    return charts(metric, series, may_be_log=metric.endswith("loss"), along="job")


def _rows(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], columns: Sequence[str]) -> Iterator[Row]:
    by_metric = [_values([row["values"].get(name) for row in rows]) for name in metrics]
    for number, row in enumerate(rows):
        status, rank, link = str(row["status"]), row["rank"], row.get("folder")
        differences = row["differences"]
        cells = [
            Cell(label=_NONE if rank is None else str(rank), key="" if rank is None else str(rank)),
            # Whatever the folder is called, the link cannot lead to another place than below this page.
            Cell(label=str(row["job"]), key=str(row["job"]), link=f"./{quote(link)}" if link else ""),
            Cell(label=status, key=status, text=True, tone=_TONES.get(_kind(row), "wary")),
            *(cells[number] for cells in by_metric),
            *(_difference(differences[name]) if name in differences else _EMPTY for name in columns),
        ]
        yield Row(cells=cells, best=rank == 1)


def _kind(row: Mapping[str, Any]) -> str:
    """How a job ended, without the number that may follow."""
    return str(row["status"]).split()[0]


def _named(name: str) -> Column:
    return Column(name=name, text=name == "status")


def _path(path: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    section, _, name = path.rpartition(".")
    values = [row["differences"][path] for row in rows if path in row["differences"]]
    return Column(name=name, section=section, text=not all(map(_is_number, values)))


def _values(values: Sequence[Any]) -> list[Cell]:
    """The cells of a metric; what is not finite is sorted like what is not there."""
    numbers = [float(value) if _is_number(value) else None for value in values]
    return [
        _EMPTY if number is None else Cell(label=label, key=repr(number) if math.isfinite(number) else "")
        for number, label in zip(numbers, below_each_other(numbers, digits=6), strict=True)
    ]


def _difference(value: Any) -> Cell:
    if _is_number(value):
        return Cell(label=f"{value:.6g}" if isinstance(value, float) else str(value), key=repr(value))
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return Cell(label=text, key=text, text=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _page(template: str, title: str, **values: Any) -> str:
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            style=(HERE / "page.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=f"sha256-{digest}",
            **values,
        )
    )


@functools.cache
def _environment() -> Any:
    """Templates of this folder, whose values are escaped."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
