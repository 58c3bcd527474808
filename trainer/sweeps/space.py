"""The words of a sweep's command line: what all jobs share, and the values that they differ in.

Values are written in Hydra's grammar: ``a=1,2``, ``choice(...)``, ``range(...)`` are finite;
``interval(a,b)`` has no end, ``int(interval(a,b))`` is of whole numbers, and ``tag(log, ...)`` asks for a
logarithmic scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from conf.compose import reworded
from conf.errors import ConfigError
from trainer.secrets import redacted

Value = str | int | float
# What is about the sweep itself: the same for all jobs, and no word of theirs.
OWN = ("output_dir", "resume", "sweep")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One swept option. ``key`` is as it was typed, ``+`` included; ``text`` is all of the word.

    Finite ones have ``choices``, as texts; numbers also have bounds, inclusive, and perhaps a ``step``.
    """

    key: str
    text: str
    choices: tuple[str, ...] | None
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    @property
    def name(self) -> str:
        """The option's path."""
        return self.key.lstrip("+")

    @property
    def is_number(self) -> bool:
        return self.high > self.low

    @property
    def is_whole(self) -> bool:
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))

    @property
    def extremes(self) -> tuple[Value, ...]:
        """The values that the rest lies between, or all of them."""
        return (self.low, self.high) if self.is_number else tuple(self.choices or ())


@dataclass(frozen=True, kw_only=True)
class Space:
    """A command line of ``--multirun``: its words in order, each shared by all jobs or a ``Dimension``."""

    parts: tuple[str | Dimension, ...]
    own: tuple[str, ...] = ()

    @property
    def dimensions(self) -> list[Dimension]:
        return [part for part in self.parts if isinstance(part, Dimension)]

    @property
    def endless(self) -> Dimension | None:
        """A dimension whose values cannot all be tried."""
        return next((each for each in self.dimensions if each.choices is None), None)

    def words(self, values: Mapping[str, Value]) -> list[str]:
        """One job's words, with the value of each dimension by its key."""
        return [
            f"{part.key}={values[part.key]}" if isinstance(part, Dimension) else part for part in self.parts
        ]

    def grid(self) -> list[dict[str, Value]]:
        """Every combination of the values; ``ConfigError`` if there is no end to them."""
        if self.endless is not None:
            raise ConfigError(
                f"{self.endless.name}: {self.endless.text!r} has no end; give the values, as in a=1,2, or "
                "search among them with sweep.n_trials=20."
            )
        dimensions = self.dimensions
        choices = (each.choices or () for each in dimensions)
        keys = [each.key for each in dimensions]
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*choices)]

    def corners(self) -> Iterator[dict[str, Value]]:
        """Jobs in which each dimension has each of its extremes, one by one beside the first of the rest."""
        first = {each.key: each.extremes[0] for each in self.dimensions}
        yield first
        for each in self.dimensions:
            yield from ({**first, each.key: value} for value in each.extremes[1:])
        yield {each.key: each.extremes[-1] for each in self.dimensions}


def read(words: Sequence[str]) -> Space:
    """The space of some overrides. Raises ``ConfigError`` for what cannot be swept."""
    with reworded():
        parsed = OverridesParser.create().parse_overrides(list(words))
    own, parts, problems = [], list[str | Dimension](), list[str]()
    for override in parsed:
        name = override.get_key_element().lstrip("+~")
        is_own = name.split(".")[0] in OWN
        if not override.is_sweep_override():
            word = str(override.input_line)
            own.append(word) if is_own else parts.append(word)
        elif problem := _problem(override, name, is_own):
            problems.append(f"{name}: {problem}")
        else:
            parts.append(_dimension(override))
    if problems:
        raise ConfigError(problems)
    return Space(parts=tuple(parts), own=tuple(own))


def _problem(override: Override, name: str, is_own: bool) -> str | None:
    word = str(override.input_line)
    value: Any = override.value()
    if is_own:
        return "it is about the sweep as a whole and has one value."
    if redacted(word) != word:
        return "a secret is the same for all jobs; give one value."
    if getattr(value, "shuffle", False):
        return f"{word!r} would give another order at each start; leave shuffle out."
    unknown = sorted({*value.tags} - {"log"})
    if unknown:
        return f"there is no tag {unknown[0]!r} here; the one that has a meaning is log."
    if isinstance(value, IntervalSweep):
        assert value.start is not None, word
        assert value.end is not None, word
        if not value.start < value.end:
            return f"{word!r} is empty; give the smaller number first."
        if "log" in value.tags and value.start <= 0:
            return f"{word!r}: a logarithmic scale begins above 0."
    elif "log" in value.tags:
        return f"{word!r}: a logarithmic scale is for an interval; leave the tag out."
    elif not list(override.sweep_string_iterator()):
        return f"{word!r} has no values."
    return None


def _dimension(override: Override) -> Dimension:
    value: Any = override.value()
    found: dict[str, Any] = {"choices": None}
    if isinstance(value, IntervalSweep):
        found |= {"low": value.start, "high": value.end, "log": "log" in value.tags}
    else:
        found["choices"] = tuple(override.sweep_string_iterator())
    if isinstance(value, RangeSweep) and isinstance(value.start, int) and isinstance(value.step, int):
        numbers = sorted(map(int, found["choices"]))
        found |= {"low": numbers[0], "high": numbers[-1], "step": abs(value.step)}
    return Dimension(key=override.get_key_element(), text=str(override.input_line), **found)
