"""What the base learning rate is multiplied by at each step (reference: main_classes/optimizer_schedules).

A factor is a pure function of the number of updates made before: 0 is the first update. So it has no state,
and a resumed run needs only that number. Lengths are whole updates; ``num_cycles`` counts whole waves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Factor = Callable[[int], float]


def constant() -> Factor:
    """The peak, always."""
    return lambda step: 1.0


def constant_with_warmup(num_warmup_steps: int) -> Factor:
    """A straight line from 0, then the peak."""
    return _after_warmup(num_warmup_steps, constant())


def linear(num_warmup_steps: int, num_training_steps: int) -> Factor:
    """Warm up, then fall in a straight line to 0 at the end."""
    left = max(1, num_training_steps - num_warmup_steps)
    return _after_warmup(num_warmup_steps, lambda step: max(0.0, (num_training_steps - step) / left))


def cosine(
    num_warmup_steps: int, num_training_steps: int, *, num_cycles: float = 0.5, min_lr_rate: float = 0.0
) -> Factor:
    """Warm up, then follow a cosine down to a share of the peak (Loshchilov and Hutter, arXiv:1608.03983)."""
    left = max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        return _above(min_lr_rate, _wave(num_cycles, (step - num_warmup_steps) / left))

    return _after_warmup(num_warmup_steps, factor)


def cosine_with_restarts(num_warmup_steps: int, num_training_steps: int, *, num_cycles: int = 1) -> Factor:
    """Warm up, then fall along half a cosine ``num_cycles`` times, each from the peak (arXiv:1608.03983)."""
    left = max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        progress = (step - num_warmup_steps) / left
        return 0.0 if progress >= 1 else _wave(0.5, (num_cycles * progress) % 1.0)

    return _after_warmup(num_warmup_steps, factor)


def cosine_warmup_with_min_lr(
    num_warmup_steps: int,
    num_training_steps: int,
    *,
    num_cycles: float = 0.5,
    min_lr_rate: float = 0.0,
    warmup_lr_rate: float | None = None,
) -> Factor:
    """A cosine down to a share of the peak whose first step is not 0.

    It counts the step that is being made: without ``warmup_lr_rate`` the first of n warm-up steps has 1/n of
    the peak and the last the peak; with it, the warm-up begins at that share.
    """
    left = max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        if step >= num_warmup_steps:
            return _above(min_lr_rate, _wave(num_cycles, (step - num_warmup_steps + 1) / left))
        if warmup_lr_rate is None:
            return (step + 1) / num_warmup_steps
        return warmup_lr_rate + (1.0 - warmup_lr_rate) * step / max(1, num_warmup_steps - 1)

    return factor


def polynomial(
    num_warmup_steps: int, num_training_steps: int, *, lr_init: float, lr_end: float = 1e-7, power: float = 1
) -> Factor:
    """Warm up, then fall from the base rate ``lr_init`` to ``lr_end`` by a power of what is left."""
    left = max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        if step > num_training_steps:
            return lr_end / lr_init
        remaining = 1 - (step - num_warmup_steps) / left
        return ((lr_init - lr_end) * remaining**power + lr_end) / lr_init

    return _after_warmup(num_warmup_steps, factor)


def inverse_sqrt(num_warmup_steps: int, *, timescale: int | None = None) -> Factor:
    """Warm up, then fall with the square root of the steps, in units of ``timescale``.

    Unless given, that is the length of the warm-up, or 10,000 without one.
    """
    scale = timescale or num_warmup_steps or 10_000

    def factor(step: int) -> float:
        return 1.0 / math.sqrt((step + scale - num_warmup_steps) / scale)

    return _after_warmup(num_warmup_steps, factor)


def warmup_stable_decay(
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    *,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Factor:
    """Rise from a share of the peak to it, stay there, fall back to that share, and stay there."""
    rise, fall = RISES[warmup_type], FALLS[decay_type]

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return _above(min_lr_ratio, rise(step / num_warmup_steps))
        decayed = step - num_warmup_steps - num_stable_steps
        if decayed < 0:
            return 1.0
        if decayed < num_decay_steps:
            return _above(min_lr_ratio, fall(decayed / num_decay_steps, num_cycles))
        return min_lr_ratio

    return factor


def _after_warmup(num_warmup_steps: int, then: Factor) -> Factor:
    """A straight line from 0 to the peak before ``then``."""
    return lambda step: step / num_warmup_steps if step < num_warmup_steps else then(step)


def _wave(num_cycles: float, progress: float) -> float:
    """A cosine between 1, where it begins, and 0."""
    return 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress))


def _above(floor: float, share: float) -> float:
    """The share of the way from ``floor`` to 1; rounding does not take it below 0."""
    return max(0.0, share * (1.0 - floor) + floor)


# By the names of ``warmup_type`` and ``decay_type``, each of the progress from 0 to 1.
RISES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1.0 - math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1.0 - math.sqrt(1.0 - progress),
}
FALLS: Mapping[str, Callable[[float, float], float]] = {
    "linear": lambda progress, num_cycles: 1.0 - progress,
    "cosine": lambda progress, num_cycles: _wave(num_cycles, progress),
    "1-sqrt": lambda progress, num_cycles: 1.0 - math.sqrt(progress),
}
