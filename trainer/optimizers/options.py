"""Typed options of the optimizers; defaults are the reference's (main_classes/trainer)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What every optimizer has; ``weight_decay`` leaves norms and biases alone."""

    learning_rate: float = 5e-5
    weight_decay: float = 0.0

    @property
    def state_tensors(self) -> int:
        """How many numbers the optimizer keeps for each trained one."""
        return 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adam_epsilon", "momentum"):
            if getattr(self, name, 0) < 0:
                raise ValueError(f"{name}: 0 or more is wanted, {getattr(self, name)} was given.")


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerOptions):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8

    @property
    def state_tensors(self) -> int:
        return 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: from 0 to below 1 is wanted, {getattr(self, name)} was given.")


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerOptions):
    """Stochastic gradient descent with optional momentum."""

    momentum: float = 0.0
    nesterov: bool = False

    @property
    def state_tensors(self) -> int:
        return 1 if self.momentum else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: it needs a momentum above 0; give one or leave it out.")
