"""The learning rate as a function of the step (reference: main_classes/optimizer_schedules).

A schedule is a pure function ``factor(step) -> float`` that the base learning rate is multiplied by; step 0
is the first update. So it has no state, and a resumed run needs only the step. What the loop holds is a
``Rates``, which gives an optimizer's groups their learning rates before each update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

CATALOG = {
    "constant": ("trainer.schedules:Constant", "trainer.schedules:constant"),
    "constant_with_warmup": ("trainer.schedules:Warmup", "trainer.schedules:constant"),
    "linear": ("trainer.schedules:Warmup", "trainer.schedules:linear"),
    "cosine": ("trainer.schedules:Cosine", "trainer.schedules:cosine"),
}

Factor = Callable[[int], float]


class Rates(Protocol):
    """What gives the groups of an optimizer their learning rates."""

    def set(self, updates: int) -> None:
        """The rates of the update that comes after ``updates`` others."""

    def get_last_lr(self) -> list[float]:
        """The rate of each group, as a torch scheduler says it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class FactorRates:
    """Each group's ``initial_lr`` times a factor of the number of updates made before."""

    def __init__(self, optimizer: Any, factor: Factor):
        self.optimizer, self.factor = optimizer, factor

    def __call__(self, step: int) -> float:
        return self.factor(step)

    def set(self, updates: int) -> None:
        factor = self.factor(updates)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def get_last_lr(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: the number of updates says it all."""


class SteppedRates:
    """A torch scheduler that a Python program brought; it is stepped once for each update made."""

    def __init__(self, scheduler: Any):
        self.scheduler, self.updates = scheduler, 0

    def set(self, updates: int) -> None:
        while self.updates < updates:
            self.scheduler.step()
            self.updates += 1

    def get_last_lr(self) -> list[float]:
        return [float(rate) for rate in self.scheduler.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "scheduler": _plain(self.scheduler.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.scheduler.load_state_dict(_filled(self.scheduler.state_dict(), state["scheduler"]))
        for group, rate in zip(self.scheduler.optimizer.param_groups, self.get_last_lr(), strict=True):
            group["lr"] = rate


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """What of a scheduler's state JSON can hold: the program makes its functions again.

    A scheduler of several has theirs in a list.
    """
    kept: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
            kept[name] = [_plain(item) for item in value]
        elif is_plain(value):
            kept[name] = value
    return kept


def is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _filled(now: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """A fresh scheduler's state with what was saved of another's in its place."""
    filled = dict(now)
    for name, value in saved.items():
        is_nested = isinstance(value, list) and value and isinstance(value[0], dict)
        pairs = zip(now[name], value, strict=True) if is_nested else ()
        filled[name] = [_filled(*pair) for pair in pairs] if is_nested else value
    return filled


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
