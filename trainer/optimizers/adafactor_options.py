"""Typed options of Adafactor; defaults are the reference's."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.optimizers.options import OptimizerOptions, refuse_no_share


@dataclass(frozen=True, kw_only=True)
class FactoredMoment(OptimizerOptions):
    """A second moment kept as a row and a column of each matrix (Shazeer and Stern 2018, arXiv:1804.04235).

    ``eps`` is what is added to squared gradients, and the least scale of a parameter. An update whose root
    mean square is above ``clip_threshold`` is scaled down to it. The moment of step t keeps
    1 - t**``decay_rate`` of the one before.
    """

    eps: tuple[float, ...] = (1e-30, 1e-3)
    clip_threshold: float = 1.0
    decay_rate: float = -0.8

    @property
    def state_tensors(self) -> float:
        """An upper bound for matrices of 100 rows and columns or more; vectors keep 1."""
        return 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.eps) != 2 or min(self.eps) < 0:
            raise ValueError(f"eps: two numbers, 0 or more, are wanted; {list(self.eps)} was given.")
        if self.clip_threshold <= 0:
            raise ValueError(f"clip_threshold: more than 0 is wanted, {self.clip_threshold} was given.")
        if self.decay_rate >= 0:
            raise ValueError(f"decay_rate: less than 0 is wanted, {self.decay_rate} was given.")


@dataclass(frozen=True, kw_only=True)
class Adafactor(FactoredMoment):
    """Adafactor, by default as the reference's Trainer makes it: with a rate from outside.

    ``beta1`` adds a first moment. ``scale_parameter`` makes the rate relative to the root mean square of each
    parameter. With ``relative_step`` the optimizer finds the rate itself, the inverse root of the step or
    0.01, whichever is less, and ``learning_rate`` and a schedule would do nothing; with ``warmup_init`` it
    rises by 1e-6 a step until the inverse root is less.
    """

    beta1: float | None = None
    scale_parameter: bool = False
    relative_step: bool = False
    warmup_init: bool = False

    @property
    def state_tensors(self) -> float:
        return super().state_tensors + (self.beta1 is not None)

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_share(self, "beta1")
        if self.warmup_init and not self.relative_step:
            raise ValueError("warmup_init: it is for relative_step; set that too or leave it out.")
        if not self.relative_step:
            return
        for name in ("layer_decay", "loraplus_lr_ratio"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: relative_step finds one rate for all; leave one of them out.")
        for name, group in self.groups.items():
            if group.learning_rate is not None:
                raise ValueError(
                    f"groups.{name}.learning_rate: relative_step finds one rate for all; leave one of them "
                    "out."
                )
