"""Typed options of LOMO and AdaLomo; defaults are those of their authors' package."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.optimizers.adafactor_options import FactoredMoment
from trainer.optimizers.options import OptimizerOptions


@dataclass(frozen=True, kw_only=True)
class AdaLomo(FactoredMoment):
    """Adafactor with ``scale_parameter``, in the backward pass (Lv et al. 2023, arXiv:2310.10195).

    Gradients are first cut off at +-``clip_grad_value`` if that is given.
    """

    clip_grad_value: float | None = None

    @property
    def updates_in_backward(self) -> bool:
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_cut(self.clip_grad_value)


@dataclass(frozen=True, kw_only=True)
class Lomo(OptimizerOptions):
    """SGD in the backward pass, without any state (Lv et al. 2023, arXiv:2306.09782).

    Gradients are first cut off at +-``clip_grad_value`` if that is given.
    """

    clip_grad_value: float | None = None

    @property
    def updates_in_backward(self) -> bool:
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_cut(self.clip_grad_value)


def refuse_no_cut(value: float | None) -> None:
    """Raise ``ValueError`` for a ``clip_grad_value`` that would leave nothing."""
    if value is not None and value <= 0:
        raise ValueError(f"clip_grad_value: more than 0 is wanted, {value} was given.")
