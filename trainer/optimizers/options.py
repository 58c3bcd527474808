"""Typed options of the optimizers; defaults are the reference's (main_classes/trainer)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FloatType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A rate or a decay of their own for the parameters whose whole checkpoint name a pattern matches.

    What is not said here stays as it is for the others. A rate is taken as it is, whatever the options say of
    layers and adapters; a decay holds for norms and biases too.
    """

    pattern: str
    learning_rate: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern: {self.pattern!r} is no regular expression; {error}.") from error
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: 0 or more is wanted, {value} was given.")
        if self.learning_rate is None and self.weight_decay is None:
            raise ValueError("learning_rate: neither it nor weight_decay is given; give what is to differ.")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What every optimizer has; ``weight_decay`` leaves norms and biases alone.

    ``groups`` differ by name; ``layer_decay`` makes each layer's rate that times the rate of the layer above
    it; ``loraplus_lr_ratio`` is how much faster the second matrices of adapters learn than the rest (LoRA+).
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    groups: Mapping[str, ParameterGroup] = field(default_factory=dict)
    layer_decay: float | None = None
    loraplus_lr_ratio: float | None = None

    @property
    def state_tensors(self) -> float:
        """How many numbers of the weights' type the optimizer keeps for each trained one."""
        return 0

    @property
    def updates_in_backward(self) -> bool:
        """Whether each parameter is updated as soon as its gradient is there, which is then let go.

        There is no accumulation, no global clipping and no scaled loss then, and an update cannot be taken
        back where a later gradient is not finite.
        """
        return False

    @property
    def averages_weights(self) -> bool:
        """Whether the optimizer keeps an average of its own, which is what is evaluated and saved."""
        return False

    @property
    def keeps_embeddings(self) -> bool:
        """Whether embeddings are a group of their own, as their state is kept in another way."""
        return False

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "adam_epsilon", "momentum"):
            if getattr(self, name, 0) < 0:
                raise ValueError(f"{name}: 0 or more is wanted, {getattr(self, name)} was given.")
        if self.layer_decay is not None and not 0 < self.layer_decay < 1:
            raise ValueError(f"layer_decay: between 0 and 1 is wanted, {self.layer_decay} was given.")
        if self.loraplus_lr_ratio is not None and self.loraplus_lr_ratio <= 0:
            raise ValueError(f"loraplus_lr_ratio: more than 0 is wanted, {self.loraplus_lr_ratio} was given.")


@dataclass(frozen=True, kw_only=True)
class AdamW(OptimizerOptions):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8

    @property
    def state_tensors(self) -> float:
        return 2

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_share(self, "adam_beta1", "adam_beta2")


@dataclass(frozen=True, kw_only=True)
class AdamWAnyPrecision(AdamW):
    """AdamW whose states have types of their own, and which can keep what rounding takes from an update.

    With ``use_kahan_summation`` that is added to the next update (Zamirai et al. 2020, arXiv:2010.06192), so
    that bf16 weights take in updates too small for their type; it lies in ``compensation_buffer_dtype``.
    """

    use_kahan_summation: bool = False
    momentum_dtype: FloatType = "float32"
    variance_dtype: FloatType = "float32"
    compensation_buffer_dtype: FloatType = "bfloat16"

    @property
    def state_tensors(self) -> float:
        """In numbers of fp32."""
        types = [self.momentum_dtype, self.variance_dtype]
        if self.use_kahan_summation:
            types.append(self.compensation_buffer_dtype)
        return sum(1 if name == "float32" else 0.5 for name in types)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_kahan_summation and self.compensation_buffer_dtype != "bfloat16":
            raise ValueError(
                "compensation_buffer_dtype: it is for use_kahan_summation; set that too or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerOptions):
    """Stochastic gradient descent with optional momentum."""

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    @property
    def state_tensors(self) -> float:
        return 1 if self.momentum else 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: it needs a momentum above 0; give one or leave it out.")
        if self.dampening and not self.momentum:
            raise ValueError("dampening: it needs a momentum above 0; give one or leave it out.")
        if self.dampening and self.nesterov:
            raise ValueError("dampening: nesterov has none; leave one of them out.")


@dataclass(frozen=True, kw_only=True)
class Adagrad(OptimizerOptions):
    """Steps divided by the root of the sum of all squared gradients (Duchi et al. 2011)."""

    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    @property
    def state_tensors(self) -> float:
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "lr_decay", "initial_accumulator_value", "eps")


@dataclass(frozen=True, kw_only=True)
class RMSprop(OptimizerOptions):
    """Steps divided by the root of a running mean of squared gradients (Hinton 2012, lecture 6).

    ``alpha`` is the share of itself that the mean keeps; ``centered`` takes the mean gradient's square off.
    """

    alpha: float = 0.99
    momentum: float = 0.0
    eps: float = 1e-8
    centered: bool = False

    @property
    def state_tensors(self) -> float:
        return 1 + bool(self.momentum) + self.centered

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "eps")
        refuse_no_share(self, "alpha")


@dataclass(frozen=True, kw_only=True)
class AdafactorTorch(OptimizerOptions):
    """Torch's Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): second moments as rows and columns.

    The rate of step t is the smaller of ``learning_rate`` and 1/sqrt(t), times the larger of ``eps2`` and the
    root mean square of the weights; an update whose root mean square is above ``d`` is scaled down to it.
    ``eps1`` is the least root of a second moment; by default it follows from the weights' type.
    """

    beta2_decay: float = -0.8
    eps1: float | None = None
    eps2: float = 1e-3
    d: float = 1.0

    @property
    def state_tensors(self) -> float:
        """A row and a column of each matrix, which is next to nothing."""
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "eps1", "eps2")
        if self.beta2_decay > 0:
            raise ValueError(f"beta2_decay: 0 or less is wanted, {self.beta2_decay} was given.")
        if self.d < 1:
            raise ValueError(f"d: 1 or more is wanted, {self.d} was given.")


@dataclass(frozen=True, kw_only=True)
class Muon(AdamW):
    """Momentum made orthogonal (Jordan et al. 2024) for hidden matrices, AdamW for all other weights.

    ``optim_target_modules`` names the linear layers whose weights are hidden matrices: by default all but the
    head. ``momentum``, ``nesterov``, ``ns_steps`` and ``ns_coefficients`` (of the Newton-Schulz iteration)
    are theirs, ``adam_*`` the others'. One learning rate serves both, as ``adjust_lr_fn`` scales the
    matrices' update to the size that AdamW's has (Liu et al. 2025, arXiv:2502.16982); ``original`` scales it
    by their shape alone and wants rates near 0.02.
    """

    optim_target_modules: tuple[str, ...] | str | None = None
    momentum: float = 0.95
    nesterov: bool = True
    ns_steps: int = 5
    ns_coefficients: tuple[float, ...] = (3.4445, -4.775, 2.0315)
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = "match_rms_adamw"

    @property
    def state_tensors(self) -> float:
        """An upper bound: hidden matrices have 1, all other weights 2."""
        return 2

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_share(self, "momentum")
        if not 1 <= self.ns_steps < 100:
            raise ValueError(f"ns_steps: from 1 to 99 is wanted, {self.ns_steps} was given.")
        if len(self.ns_coefficients) != 3:
            raise ValueError(
                f"ns_coefficients: three numbers are wanted, {len(self.ns_coefficients)} were given."
            )


def refuse_negative(options: OptimizerOptions, *names: str) -> None:
    """Raise ``ValueError`` for the first of these that is below 0; None is not."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ValueError(f"{name}: 0 or more is wanted, {value} was given.")


def refuse_no_share(options: OptimizerOptions, *names: str) -> None:
    """Raise ``ValueError`` for the first of these that is not from 0 to below 1; None is."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name}: from 0 to below 1 is wanted, {value} was given.")
