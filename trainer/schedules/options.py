"""Typed options of the schedules, named as the reference has them (main_classes/optimizer_schedules)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from conf.errors import ConfigError
from conf.plugins import nearest

Curve = Literal["linear", "cosine", "1-sqrt"]


class SchedulerType(StrEnum):
    """The schedules by the reference's names for them in a program; any other is a ``ConfigError``."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"

    @classmethod
    def _missing_(cls, value: object) -> Any:
        raise ConfigError(f"{cls.__name__}: {value!r} is none of its values; {nearest(str(value), cls)}")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The learning rate never changes."""


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Linear warm-up from 0: ``warmup_steps`` steps (below 1: a share of all), or a ``warmup_ratio``."""

    warmup_steps: float = 0
    warmup_ratio: float | None = None

    def __post_init__(self) -> None:
        _is_count(self, "warmup_steps")
        _in_range(self, "warmup_ratio", 0, 1)
        if self.warmup_ratio is not None and self.warmup_steps:
            raise ValueError("warmup_ratio: warmup_steps is given too; leave one of them out.")


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Half a cosine from the peak to 0 by default; ``num_cycles`` counts whole waves."""

    num_cycles: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _above_zero(self, "num_cycles")


@dataclass(frozen=True, kw_only=True)
class CosineWithRestarts(Warmup):
    """Half a cosine from the peak to 0, ``num_cycles`` times."""

    num_cycles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, num_cycles=1)


@dataclass(frozen=True, kw_only=True)
class CosineWithMinLR(Cosine):
    """A cosine down to ``min_lr``, or to ``min_lr_rate`` times the peak; one of the two is wanted."""

    min_lr: float | None = None
    min_lr_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, min_lr=0)
        _in_range(self, "min_lr_rate", 0, 1)
        if self.min_lr is None and self.min_lr_rate is None:
            raise ValueError("min_lr: it or min_lr_rate is required and none was given.")
        if self.min_lr is not None and self.min_lr_rate is not None:
            raise ValueError("min_lr_rate: min_lr is given too; leave one of them out.")


@dataclass(frozen=True, kw_only=True)
class CosineWarmupWithMinLR(CosineWithMinLR):
    """The same, but the first step's rate is not 0.

    It is ``warmup_lr_rate`` times the peak, or the peak divided by the number of warm-up steps.
    """

    warmup_lr_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _in_range(self, "warmup_lr_rate", 0, 1)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Warmup):
    """A fall from the peak to the rate ``lr_end`` by a ``power`` of the steps that are left."""

    lr_end: float = 1e-7
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, lr_end=0)
        _above_zero(self, "power")


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Warmup):
    """A fall with the square root of the steps, in units of ``timescale``.

    Unless given, that is the length of the warm-up, or 10,000 without one.
    """

    timescale: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, timescale=1)


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """The rate is multiplied by ``factor`` when the metric for the best model has stopped getting better.

    That is after more than ``patience`` evaluations in which it did not pass the best by ``threshold``, a
    share of the best (``rel``) or a difference (``abs``); then ``cooldown`` evaluations are not counted. The
    options are those of torch's ``ReduceLROnPlateau``: changes below ``eps`` are not made, and none goes
    below ``min_lr``.
    """

    mode: Literal["min", "max"] = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ValueError(f"factor: between 0 and 1 is wanted, {self.factor} was given.")
        _at_least(self, patience=0, threshold=0, cooldown=0, min_lr=0, eps=0)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Warmup):
    """Warm up, stay at the peak, and fall to ``min_lr_ratio`` times the peak, where the warm-up begins too.

    ``num_decay_steps`` below 1 are a share of all steps. ``num_stable_steps`` are what the other two leave;
    with fewer, the rest of the steps stay at the lowest rate. ``num_cycles`` (whole waves) is for a cosine.
    """

    num_decay_steps: float
    num_stable_steps: int | None = None
    warmup_type: Curve = "linear"
    decay_type: Curve = "cosine"
    min_lr_ratio: float = 0.0
    num_cycles: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _is_count(self, "num_decay_steps")
        _at_least(self, num_stable_steps=0)
        _in_range(self, "min_lr_ratio", 0, 1)
        _above_zero(self, "num_cycles")
        if self.num_cycles != 0.5 and self.decay_type != "cosine":
            raise ValueError(f"num_cycles: a decay_type of {self.decay_type!r} has no waves; leave it out.")


def warmup_steps(options: Any, max_steps: int) -> int:
    """How many of ``max_steps`` warm up; a share is rounded up."""
    if not isinstance(options, Warmup):
        return 0
    if options.warmup_ratio is not None:
        return math.ceil(options.warmup_ratio * max_steps)
    return _counted(options.warmup_steps, max_steps)


def decay_steps(options: WarmupStableDecay, max_steps: int) -> int:
    """How many of ``max_steps`` are for the fall; a share is rounded up."""
    return _counted(options.num_decay_steps, max_steps)


def misfits(
    options: Any, *, learning_rate: float | None = None, max_steps: int | None = None
) -> Iterator[str]:
    """What of the options does not fit the optimizer's rate or the number of steps, where it is known.

    Each is a sentence "field: what is wrong".
    """
    if learning_rate is not None:
        lowest, end = getattr(options, "min_lr", None), getattr(options, "lr_end", None)
        if lowest is not None and lowest > learning_rate:
            yield f"min_lr: {lowest} is above the learning rate, {learning_rate}; give a lower one."
        if end is not None and end >= learning_rate:
            yield f"lr_end: {end} is not below the learning rate, {learning_rate}; give a lower one."
    if max_steps is not None and isinstance(options, WarmupStableDecay):
        warmup, stable = warmup_steps(options, max_steps), options.num_stable_steps or 0
        decay = decay_steps(options, max_steps)
        if warmup + stable + decay > max_steps:
            held = f", {stable} stable ones" if stable else ""
            yield (
                f"num_decay_steps: {decay} after {warmup} steps of warm-up{held} are more than the "
                f"{max_steps} steps there are; give fewer."
            )


def refuse_misfits(options: Any, *, learning_rate: float | None, max_steps: int) -> None:
    """``ConfigError`` with what of the options does not fit a run."""
    if problems := [*misfits(options, learning_rate=learning_rate, max_steps=max_steps)]:
        raise ConfigError(f"schedule.{problem}" for problem in problems)


def _counted(steps: float, max_steps: int) -> int:
    return math.ceil(steps * max_steps) if steps < 1 else int(steps)


def _is_count(options: object, name: str) -> None:
    steps = getattr(options, name)
    if steps < 0 or (steps >= 1 and steps != int(steps)):
        raise ValueError(f"{name}: whole steps or a share below 1 is wanted, {steps} was given.")


def _in_range(options: object, name: str, low: float, high: float) -> None:
    share = getattr(options, name)
    if share is not None and not low <= share <= high:
        raise ValueError(f"{name}: a share between {low} and {high} is wanted, {share} was given.")


def _at_least(options: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        value = getattr(options, name)
        if value is not None and value < bound:
            raise ValueError(f"{name}: {bound} or more is wanted, {value} was given.")


def _above_zero(options: object, name: str) -> None:
    if getattr(options, name) <= 0:
        raise ValueError(f"{name}: more than 0 is wanted, {getattr(options, name)} was given.")
