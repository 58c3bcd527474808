"""The learning rate as a function of the step (reference: main_classes/optimizer_schedules).

A schedule is a pure function ``factor(step) -> float`` that the base learning rate is multiplied by; step 0
is the first update. So it has no state, and a resumed run needs only the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

CATALOG = {
    "constant": ("trainer.schedules:Constant", "trainer.schedules:constant"),
    "constant_with_warmup": ("trainer.schedules:Warmup", "trainer.schedules:constant"),
    "linear": ("trainer.schedules:Warmup", "trainer.schedules:linear"),
    "cosine": ("trainer.schedules:Cosine", "trainer.schedules:cosine"),
}

Factor = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The learning rate never changes."""


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Linear warm-up from 0: ``warmup_steps`` steps (below 1: a share of all), or a ``warmup_ratio``."""

    warmup_steps: float = 0
    warmup_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or (self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps)):
            raise ValueError(
                f"warmup_steps: whole steps or a share below 1 is wanted, {self.warmup_steps} was given."
            )
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio <= 1:
            raise ValueError(
                f"warmup_ratio: a share between 0 and 1 is wanted, {self.warmup_ratio} was given."
            )
        if self.warmup_ratio is not None and self.warmup_steps:
            raise ValueError("warmup_ratio: warmup_steps is given too; leave one of them out.")


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Half a cosine from the peak to 0 by default; ``num_cycles`` counts whole waves."""

    num_cycles: float = 0.5


def warmup_steps(options: Constant | Warmup, max_steps: int) -> int:
    """How many of ``max_steps`` warm up; a share is rounded up."""
    if not isinstance(options, Warmup):
        return 0
    if options.warmup_ratio is not None:
        return math.ceil(options.warmup_ratio * max_steps)
    steps = options.warmup_steps
    return math.ceil(steps * max_steps) if steps < 1 else int(steps)


def constant(options: Constant | Warmup, *, max_steps: int) -> Factor:
    """Warm up (if asked to), then stay at the peak."""
    return _warmed(warmup_steps(options, max_steps), lambda step: 1.0)


def linear(options: Warmup, *, max_steps: int) -> Factor:
    """Warm up, then fall in a straight line to 0 at ``max_steps``."""
    warmup = warmup_steps(options, max_steps)
    return _warmed(warmup, lambda step: max(0.0, (max_steps - step) / max(1, max_steps - warmup)))


def cosine(options: Cosine, *, max_steps: int) -> Factor:
    """Warm up, then follow a cosine (Loshchilov and Hutter 2016, arXiv:1608.03983, without restarts)."""
    warmup = warmup_steps(options, max_steps)

    def factor(step: int) -> float:
        progress = (step - warmup) / max(1, max_steps - warmup)
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * options.num_cycles * 2.0 * progress)))

    return _warmed(warmup, factor)


def _warmed(warmup: int, then: Factor) -> Factor:
    return lambda step: step / max(1, warmup) if step < warmup else then(step)
