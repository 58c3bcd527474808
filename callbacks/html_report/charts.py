"""Line charts as plain numbers and texts: what the template draws as SVG, thinned so that any run fits.

Places are thousandths of the drawing's width and height, from its left upper corner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from callbacks.html_report.scales import Scale, compact, is_drawable, step_scale, value_scale, whole_ticks

Point = tuple[float, float]  # step, value

MAX_POINTS = 900  # of a line; more than a screen has columns
MAX_LINES = 8  # of a chart: as many colours can be told apart
_MARKED = 48  # lines of up to so many points show each of them
_NAMED = 3  # steps of values that are not finite are listed up to so many


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one name by step, in order. ``linked`` false draws points without a line."""

    name: str
    points: Sequence[Point]
    linked: bool = True


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series as drawn: ``path`` and ``dots`` are SVG path data.

    ``steps`` and ``values`` are what a pointer reads off, in the order of the points; ``last`` is the last
    of a line, and nothing of points without one.
    """

    name: str
    hue: int
    path: str
    dots: str
    steps: str
    values: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label of an axis and how far along it stands, in percent."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over a common axis of steps. ``summary`` says in words what they show."""

    title: str
    lines: Sequence[Line]
    across: Sequence[Tick]
    up: Sequence[Tick]
    low: float
    high: float
    log: bool
    summary: str
    notes: Sequence[str]
    along: str = "step"

    @property
    def at(self) -> str:
        """What the values in the key are read off at, until a pointer chooses another place."""
        return f"last {self.along}" if any(line.last for line in self.lines) else ""

    @property
    def gutter(self) -> int:
        """How many characters the labels beside the drawing need."""
        return max((len(tick.label) for tick in self.up), default=1) + 1


def charts(
    title: str, series: Sequence[Series], *, may_be_log: bool = False, along: str = "step"
) -> Iterator[Chart]:
    """The charts that show ``series``: one, or several where they are too many for one."""
    shown = [each for each in series if each.points]
    for start in range(0, len(shown), MAX_LINES):
        part = shown[start : start + MAX_LINES]
        more = f" ({start // MAX_LINES + 1})" if len(shown) > MAX_LINES else ""
        yield chart(f"{title}{more}", part, may_be_log=may_be_log, along=along)


def chart(title: str, series: Sequence[Series], *, may_be_log: bool = False, along: str = "step") -> Chart:
    """One chart of at most ``MAX_LINES`` series that have points. Values that are not finite leave gaps."""
    steps = step_scale(step for each in series for step, _ in each.points)
    thin = [Series(name=each.name, points=thinned(each.points), linked=each.linked) for each in series]
    drawable = [value for each in thin for _, value in each.points if is_drawable(value)]
    values = value_scale(drawable, may_be_log=may_be_log)
    across = whole_ticks(steps, 6)
    return Chart(
        title=title,
        lines=[_line(each, hue, steps, values) for hue, each in enumerate(thin, start=1)],
        across=[Tick(at=_percent(steps.place(value)), label=label) for value, label in across],
        up=[Tick(at=_percent(1 - values.place(value)), label=label) for value, label in values.ticks(5)],
        low=steps.low,
        high=steps.high,
        log=values.log,
        summary="; ".join(_summary(each, along) for each in series),
        notes=list(_notes(series, along)),
        along=along,
    )


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """About ``most`` of many points: the first, the last, and of each stretch its extremes and one gap."""
    if len(points) <= most:
        return list(points)
    size = -(-3 * len(points) // most)  # up to three of each stretch are kept
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        drawable = [index for index in stretch if is_drawable(points[index][1])]
        if drawable:
            kept.add(min(drawable, key=lambda index: points[index][1]))
            kept.add(max(drawable, key=lambda index: points[index][1]))
        if len(drawable) < len(stretch):
            kept.add(next(index for index in stretch if not is_drawable(points[index][1])))
    return [points[index] for index in sorted(kept)]


def _line(series: Series, hue: int, steps: Scale, values: Scale) -> Line:
    drawn: list[list[str]] = [[]]  # runs of places without a gap
    for step, value in series.points:
        if is_drawable(value):
            drawn[-1].append(f"{1000 * steps.place(step):.1f} {1000 * (1 - values.place(value)):.1f}")
        elif drawn[-1]:
            drawn.append([])
    marked = len(series.points) <= _MARKED or not series.linked
    return Line(
        name=series.name,
        hue=hue,
        path="".join(f"M{'L'.join(run)}" for run in drawn if len(run) > 1 and series.linked),
        # A stroke of no length has round ends, and so is a dot however the drawing is stretched.
        dots="".join(f"M{place}h0" for run in drawn for place in run if marked or len(run) == 1),
        steps=" ".join(f"{step:.10g}" for step, _ in series.points),
        values=" ".join(compact(value) for _, value in series.points),
        last=compact(series.points[-1][1]) if series.linked else "",
    )


def _summary(series: Series, along: str) -> str:
    """What a line shows, in words."""
    drawable = [point for point in series.points if is_drawable(point[1])]
    if not drawable:
        return f"{series.name}: no finite value"
    (first, start), (last, end) = drawable[0], drawable[-1]
    if len(drawable) == 1:
        return f"{series.name}: {compact(start)} at {along} {first:g}"
    (lowest, low), (highest, high) = (choose(drawable, key=lambda point: point[1]) for choose in (min, max))
    return (
        f"{series.name}: from {compact(start)} at {along} {first:.10g} to {compact(end)} at {last:.10g}, "
        f"lowest {compact(low)} at {lowest:.10g}, highest {compact(high)} at {highest:.10g}"
    )


def _notes(series: Sequence[Series], along: str) -> Iterator[str]:
    """What a drawing does not show by itself."""
    for each in series:
        bad = [step for step, value in each.points if not is_drawable(value)]
        if bad:
            named = ", ".join(f"{step:.10g}" for step in bad[:_NAMED])
            more = f" and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
            yield f"{each.name} is not finite at {along} {named}{more}."
    longest = max(len(each.points) for each in series)
    if longest > MAX_POINTS:
        yield f"Of {longest:,} points the highest and lowest of each stretch are drawn."


def _percent(share: float) -> float:
    return round(100 * share, 2)
