"""A measured result against its bar, and all of them as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scripts.benchmarks.measure import Round, Spread

HEADER = ("row", "compared with", "ours", "theirs", "result", "(least .. most)", "bar", "met")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a figure has to reach; ``unit`` follows every number of it in the table."""

    value: float
    sense: Literal["<=", ">="]
    unit: str

    def is_met(self, value: float) -> bool:
        return value <= self.value if self.sense == "<=" else value >= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:,g} {self.unit}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table. ``ours`` and ``theirs`` are shown as given; ``about`` says what was compared."""

    row: str
    other: str
    figure: Spread
    bar: Bar
    ours: str = ""
    theirs: str = ""
    about: str = ""
    rounds: Sequence[Round] = ()

    @property
    def is_noisy(self) -> bool:
        return any(each.is_noisy for each in self.rounds)

    @property
    def is_met(self) -> bool:
        return self.bar.is_met(self.figure.median)

    def cells(self) -> tuple[str, ...]:
        """The texts under ``HEADER``."""
        met = ("yes" if self.is_met else "NO") + (" (noisy)" if self.is_noisy else "")
        spread = f"({_number(self.figure.low)} .. {_number(self.figure.high)})"
        found = f"{_number(self.figure.median)} {self.bar.unit}"
        return self.row, self.other, self.ours, self.theirs, found, spread, str(self.bar), met

    def to_dict(self) -> dict[str, Any]:
        """Plain data with every raw number."""
        return {**asdict(self), "met": self.is_met, "noisy": self.is_noisy}


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that could not be measured here, and why."""

    row: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def render(outcomes: Sequence[Result | Skipped]) -> str:
    """The table, what exactly was compared, and what was left out."""
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    lines = [HEADER, *(result.cells() for result in results)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines] if results else []
    abouts = dict.fromkeys(f"{result.row}: {result.about}" for result in results if result.about)
    skipped = [
        f"{outcome.row}: skipped, {outcome.reason}" for outcome in outcomes if isinstance(outcome, Skipped)
    ]
    if any(result.is_noisy for result in results):
        skipped.append("noisy: other processes used the cores in every attempt at some round; measure again.")
    return "\n".join([*text, "", *abouts, *skipped]).strip("\n")


def _number(value: float) -> str:
    """Whole from a thousand on, else with as many decimals as are worth reading."""
    decimals = 0 if abs(value) >= 1000 else 2 if abs(value) >= 10 else 3
    return f"{value:,.{decimals}f}"
