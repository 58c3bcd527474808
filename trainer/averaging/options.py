"""Typed options of the averages of weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class NoAveraging:
    """The weights that are trained are those that are evaluated and saved."""


@dataclass(frozen=True, kw_only=True)
class EMA:
    """An exponential moving average of the weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017,
    arXiv:1703.01780).

    After update n the average moves by 1 - d towards the weights, where d is ``decay`` or, with ``warmup``,
    (1 + n) / (10 + n) as long as that is less, so that a short training does not end on its beginning. It is
    taken after every ``update_every`` updates.
    """

    decay: float = 0.999
    warmup: bool = True
    update_every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"decay: between 0 and 1 is wanted, {self.decay} was given.")
        if self.update_every < 1:
            raise ValueError(f"update_every: at least 1 is wanted, {self.update_every} was given.")
