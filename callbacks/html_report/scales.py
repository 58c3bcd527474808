"""Axes: where a value lies between the two ends, which values get a tick, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LARGEST = 1e300  # so that no span of two values overflows
_FLAT = 1e-6  # a smaller span, as a share of the largest value, is drawn as one level
_PADDING = 0.06  # of the span, above and below
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_PREFIXED = 9999.5  # what is smaller is written out in four digits


def is_drawable(value: float) -> bool:
    """Whether a value has a place on an axis: it is finite, and not so large that spans overflow."""
    return math.isfinite(value) and abs(value) < _LARGEST


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from ``low`` to ``high``, linear or logarithmic (then both are above 0)."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies: 0 at ``low``, 1 at ``high``."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Round values on the axis with their labels, about ``most`` of them and at least one."""
        values, step = self._decades(most) if self.log else self._multiples(most)
        labels = map(compact, values) if self.log else labels_of(values, step)
        return list(zip(values, labels, strict=True))

    def _multiples(self, most: int) -> tuple[list[float], float]:
        step = nice_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)], step

    def _decades(self, most: int) -> tuple[list[float], float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        stride = max(1, math.ceil((high - low) / most))
        digits = (1, 2, 5) if 3 * (high - low) <= 2 * most else (1,)
        values = [digit * 10.0**power for power in range(low, high + 1, stride) for digit in digits]
        return [value for value in values if self.low <= value <= self.high], 0.0


def value_scale(values: Iterable[float], *, may_be_log: bool = False) -> Scale:
    """The axis for drawable values, with a little space around them.

    It is logarithmic where that is sensible, all values are above 0 and they span more than two decades.
    """
    values = list(values)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if may_be_log and low > 0 and high / low > 100:
        space = (high / low) ** _PADDING
        return Scale(low=low / space, high=high * space, log=True)
    space = (high - low) * _PADDING
    largest = max(abs(low), abs(high))
    if high - low <= largest * _FLAT or high - low < 1e-290:
        space = largest / 2 if largest > 1e-290 else 1.0
    # A value that cannot be negative has no axis below 0.
    return Scale(low=max(low - space, 0.0) if low >= 0 else low - space, high=high + space)


def step_scale(steps: Iterable[float]) -> Scale:
    """The axis of the steps, from the first to the last."""
    steps = list(steps)
    low, high = min(steps, default=0.0), max(steps, default=1.0)
    return Scale(low=low, high=high) if high > low else Scale(low=low - 1, high=high + 1)


def whole_ticks(scale: Scale, most: int) -> list[tuple[float, str]]:
    """The ticks of an axis that counts: only whole numbers."""
    step = max(1.0, nice_step((scale.high - scale.low) / most))
    numbers = range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)
    values = [number * step for number in numbers]
    return list(zip(values, labels_of(values, step), strict=True))


def nice_step(about: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below ``about``."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= about * (1 - 1e-9))


def labels_of(values: Sequence[float], step: float) -> list[str]:
    """Labels of ticks ``step`` apart: one unit for all, and just the decimals that tell them apart."""
    unit, suffix = _unit(max(map(abs, values), default=0.0))
    decimals = max(0, -math.floor(math.log10(step / unit) + 1e-9))
    texts = (f"{abs(value) / unit:.{decimals}f}{suffix}" if value else "0" for value in values)
    return list(map(_signed, values, texts))


def compact(value: float) -> str:
    """A value for a person: four digits, with a prefix or an exponent where it is very large or small."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return _signed(value, "∞")
    unit, suffix = _unit(abs(value))
    return _signed(value, f"{abs(value) / unit:.4g}{suffix}")


def below_each_other(values: Sequence[float | None], digits: int = 5) -> list[str]:
    """A column of numbers: the same decimals for all where that shows enough of each; None is empty."""
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    places = [math.floor(math.log10(size)) for size in sizes]
    if all(size == int(size) for size in sizes) and max(places, default=0) < 15:
        form = ",.0f"
    elif min(places) < -3 or max(places) > 6:
        form = f".{digits}g"
    else:
        form = f".{max(0, digits - 1 - max(places))}f"
    return [
        "" if value is None else f"{value:{form}}" if math.isfinite(value) else compact(value)
        for value in values
    ]


def _signed(value: float, text: str) -> str:
    return f"−{text}" if value < 0 else text


def _unit(largest: float) -> tuple[float, str]:
    """What values up to ``largest`` are divided by, and how that is written behind them."""
    if largest == 0 or 1e-3 <= largest < _PREFIXED:
        return 1.0, ""
    if _PREFIXED <= largest < 1e15:
        return next((unit, prefix) for unit, prefix in _PREFIXES if largest >= unit)
    exponent = max(math.floor(math.log10(largest)), -300)
    return 10.0**exponent, f"e{exponent}"
