"""What sets the learning rates of an optimizer's groups: a factor of the step, or a scheduler of torch's."""

from __future__ import annotations

import math
from typing import Any, Protocol

from trainer.schedules.factors import Factor


class Rates(Protocol):
    """What gives the groups of an optimizer their learning rates."""

    def set(self, updates: int) -> None:
        """The rates of the update that comes after ``updates`` others."""

    def note(self, metric: float) -> None:
        """Hear what an evaluation gave for the metric by which the best model is chosen."""

    def get_last_lr(self) -> list[float]:
        """The rate of each group, as a torch scheduler says it."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class FactorRates:
    """Each group's ``initial_lr`` times a factor of the number of updates made before."""

    def __init__(self, optimizer: Any, factor: Factor):
        self.optimizer, self.factor = optimizer, factor
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def __call__(self, step: int) -> float:
        return self.factor(step)

    def set(self, updates: int) -> None:
        factor = self.factor(updates)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    def note(self, metric: float) -> None:
        """Nothing: the steps alone say it."""

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

    def note(self, metric: float) -> None:
        """Nothing: the scheduler counts steps."""

    def get_last_lr(self) -> list[float]:
        return [float(rate) for rate in self.scheduler.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "scheduler": _plain(self.scheduler.state_dict())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.scheduler.load_state_dict(_filled(self.scheduler.state_dict(), state["scheduler"]))
        _set_rates(self.scheduler.optimizer, self.get_last_lr())


class PlateauRates:
    """Torch's ``ReduceLROnPlateau``: the rates fall when the noted metric has stopped getting better."""

    # What changes of it as it is stepped, but for the best metric and the rates.
    COUNTERS = ("num_bad_epochs", "cooldown_counter", "last_epoch")

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler

    def set(self, updates: int) -> None:
        """Nothing: the rates stay what the last evaluation made them."""

    def note(self, metric: float) -> None:
        self.scheduler.step(metric)

    def get_last_lr(self) -> list[float]:
        return [float(group["lr"]) for group in self.scheduler.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        best = float(self.scheduler.best)
        return {
            "best": best if math.isfinite(best) else None,  # before the first evaluation, and JSON has none
            "rates": self.get_last_lr(),
            **{name: getattr(self.scheduler, name) for name in self.COUNTERS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["best"] is not None:
            self.scheduler.best = state["best"]
        for name in self.COUNTERS:
            setattr(self.scheduler, name, state[name])
        _set_rates(self.scheduler.optimizer, state["rates"])
        self.scheduler._last_lr = self.get_last_lr()


def _set_rates(optimizer: Any, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
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
