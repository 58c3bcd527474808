"""From the log lines of a training to charts in sections, and to the table of its evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from callbacks.html_report.charts import Chart, Point, Series, charts
from callbacks.html_report.scales import below_each_other
from trainer.reports import is_timing

History = Sequence[Mapping[str, Any]]

MAX_ROWS = 100  # of the table of evaluations
_PLACES = ("step", "epoch")  # where a line stands, and no value of it
_SUMMARY = "train_runtime"  # only the line that sums a training up has it
_TITLES = {"learning_rate": "Learning rate", "grad_norm": "Gradient norm"}
_COUNTERS = ("tokens_", "num_input_tokens_seen")
_LOG = ("loss", "grad_norm", "perplexity")  # names that end so may need a logarithmic axis


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts under a heading; the first section's first charts, ``wide`` ones, take the whole width."""

    title: str
    wide: Sequence[Chart] = ()
    charts: Sequence[Chart] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Evaluations by step: ``rows`` hold texts, ``best`` is the place of the best row, if one is known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None
    note: str = ""


def sections(log_history: History, sets: Iterable[str] = ()) -> list[Section]:
    """Every numeric series of the history in its section; ``sets`` are the names of several data sets."""
    series = series_of(log_history)
    losses = [name for name in series if name == "loss" or (_is_evaluation(name) and name.endswith("_loss"))]
    timings = [name for name in series if is_timing(name)]
    counters = [name for name in series if name.startswith(_COUNTERS) and name not in timings]
    others = [name for name in series if name not in {*losses, *timings, *counters}]
    trained = [name for name in others if not _is_evaluation(name)]
    evaluated = [name for name in others if _is_evaluation(name)]
    found = [
        Section(
            title="Training",
            wide=list(charts("Loss", [series[name] for name in losses], may_be_log=True)),
            charts=[
                *(one for name in trained for one in _charts(_TITLES.get(name, name), series[name])),
                *charts("Tokens", [series[name] for name in counters]),
            ],
        ),
        *_evaluations(series, evaluated, sets),
        Section(
            title="Speed and memory",
            charts=[one for name in timings for one in _charts(name, series[name])],
        ),
    ]
    return [section for section in found if section.wide or section.charts]


def series_of(log_history: History) -> dict[str, Series]:
    """All numbers by name; the line that sums the training up is no point of a series."""
    points: dict[str, list[Point]] = {}
    for line in log_history:
        if not _is_number(line.get("step")) or _SUMMARY in line:
            continue
        for name, value in line.items():
            if name not in _PLACES and _is_number(value):
                points.setdefault(name, []).append((float(line["step"]), float(value)))
    return {name: Series(name=name, points=values) for name, values in points.items()}


def evaluation_table(log_history: History, best_step: int | None) -> Table | None:
    """What the evaluations gave, by step; None if there were none. Many are thinned evenly."""
    by_step: dict[Any, dict[str, Any]] = {}
    for line in log_history:
        results = {
            name: value for name, value in line.items() if _is_evaluation(name) and not is_timing(name)
        }
        if results:
            place = {name: line[name] for name in _PLACES if name in line}
            by_step.setdefault(line.get("step"), place).update(results)
    if not by_step:
        return None
    steps = list(by_step)
    stride = -(-len(steps) // MAX_ROWS)
    kept = [step for step in steps if step in {*steps[::-1][::stride], best_step}]
    columns = list(dict.fromkeys(name for row in by_step.values() for name in row))
    return Table(
        columns=columns,
        rows=list(
            zip(*(_column([by_step[step].get(name) for step in kept]) for name in columns), strict=True)
        ),
        best=kept.index(best_step) if best_step in kept else None,
        note=f"{len(kept)} of {len(steps):,} evaluations are listed." if len(kept) < len(steps) else "",
    )


def _evaluations(
    series: Mapping[str, Series], names: Sequence[str], sets: Iterable[str]
) -> Iterator[Section]:
    """A section for what was measured on all sets together, and one for each set."""
    several = sorted(sets, key=len, reverse=True)  # a name may begin with another
    by_set: dict[str, list[Chart]] = {"": [], **{name: [] for name in sorted(several)}}
    for name in names:
        owner = next((each for each in several if name.startswith(f"eval_{each}_")), "")
        title = name.removeprefix("eval_").removeprefix(f"{owner}_" if owner else "")
        by_set[owner] += _charts(title, series[name])
    for owner, found in by_set.items():
        yield Section(title=f"Evaluation of {owner}" if owner else "Evaluation", charts=found)


def _charts(title: str, series: Series) -> Iterator[Chart]:
    return charts(title, [series], may_be_log=series.name.endswith(_LOG))


def _is_evaluation(name: str) -> bool:
    return name.startswith("eval_")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _column(values: Sequence[Any]) -> list[str]:
    if all(value is None or _is_number(value) for value in values):
        return below_each_other(values)
    return ["" if value is None else str(value) for value in values]
