"""Typed options of the optimizers that come from packages of their own; defaults are the reference's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from conf.plugins import Package
from trainer.optimizers.options import AdamW, OptimizerOptions, refuse_negative, refuse_no_share

# -- schedulefree ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ScheduleFree(OptimizerOptions):
    """What the schedule-free optimizers share (Defazio et al. 2024, arXiv:2405.15682).

    Their average of the weights is evaluated and saved, and takes the place of a falling learning rate. In it
    a step counts by its number to the power ``r``, times the highest rate so far to ``weight_lr_power``.
    """

    package: ClassVar[Package] = Package("schedulefree", extra="schedulefree")

    r: float = 0.0
    weight_lr_power: float = 2.0

    @property
    def averages_weights(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeRAdam(ScheduleFree, AdamW):
    """Schedule-free RAdam, which needs no warm-up.

    Its first steps, too few to tell a variance by, change nothing; without ``silent_sgd_phase`` they are
    SGD's.
    """

    silent_sgd_phase: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_no_average(self, "adam_beta1")


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(ScheduleFree, AdamW):
    """Schedule-free AdamW; ``warmup_steps`` is its own linear warm-up, beside what the schedule does."""

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "warmup_steps")
        _refuse_no_average(self, "adam_beta1")


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD; ``momentum`` is where between its average and its last step gradients are taken."""

    momentum: float = 0.9
    warmup_steps: int = 0

    @property
    def state_tensors(self) -> float:
        return 1

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "warmup_steps")
        _refuse_no_average(self, "momentum")


def _refuse_no_average(options: ScheduleFree, name: str) -> None:
    """At 0 gradients are taken at the last step, from which the average does not follow."""
    if not 0 < getattr(options, name) < 1:
        raise ValueError(f"{name}: between 0 and 1 is wanted, {getattr(options, name)} was given.")


# -- grokadamw, optimi -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GrokAdamW(AdamW):
    """AdamW that adds to each gradient ``lamb`` times their slow mean (Lee et al. 2024, arXiv:2405.20233).

    The mean keeps ``alpha_init`` of itself, and less the more the validation loss is above the training loss,
    at ``grokking_signal_decay_rate``. The first moment's decay falls by ``gamma`` from one parameter of a
    group to the next. Each parameter's gradient is clipped to ``gradient_clipping`` by itself; 0 clips none.
    """

    package: ClassVar[Package] = Package("grokadamw", extra="grokadamw")

    alpha_init: float = 0.98
    lamb: float = 2.0
    gamma: float = 0.1
    grokking_signal_decay_rate: float = 0.1
    gradient_clipping: float = 1.0

    @property
    def state_tensors(self) -> float:
        """On the CPU, whatever the device of the weights."""
        return 3

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "lamb", "grokking_signal_decay_rate", "gradient_clipping")
        refuse_no_share(self, "gamma")
        if not 0 <= self.alpha_init <= 1:
            raise ValueError(f"alpha_init: from 0 to 1 is wanted, {self.alpha_init} was given.")


@dataclass(frozen=True, kw_only=True)
class StableAdamW(AdamW):
    """AdamW that takes smaller steps where the second moment lags (Wortsman et al. 2023, arXiv:2304.13013).

    ``kahan_sum`` adds what rounding takes from an update of bf16 or fp16 weights to the next; None does where
    the weights are of such a type. With ``decouple_lr`` weights decay by ``weight_decay`` itself, scaled by
    the rate's share of ``max_lr`` (None: ``learning_rate``), so that it wants to be far smaller.
    """

    package: ClassVar[Package] = Package("optimi", extra="optimi")

    kahan_sum: bool | None = None
    decouple_lr: bool = False
    max_lr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_lr is not None:
            if not self.decouple_lr:
                raise ValueError("max_lr: it is for decouple_lr; set that too or leave it out.")
            if self.max_lr <= 0:
                raise ValueError(f"max_lr: above 0 is wanted, {self.max_lr} was given.")


# -- torchao -----------------------------------------------------------------------------------------

SCALE_BYTES = 4  # of each block of quantized numbers


@dataclass(frozen=True, kw_only=True)
class TorchAOAdamW(AdamW):
    """AdamW with quantized states, in blocks of ``block_size`` that have one scale each.

    Weights of fewer than 4096 numbers, or of no whole number of blocks, keep full states.
    ``bf16_stochastic_round`` rounds updates of bf16 weights up or down by chance, right in the mean, where
    they would else be lost.
    """

    package: ClassVar[Package] = Package("torchao", extra="torchao")
    state_bits: ClassVar[int]

    block_size: int = 256
    bf16_stochastic_round: bool = False

    @property
    def state_tensors(self) -> float:
        """In numbers of fp32."""
        return 2 * (self.state_bits / 8 + SCALE_BYTES / self.block_size) / 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_size < 2 or self.block_size % 2:
            raise ValueError(
                f"block_size: an even number of 2 or more is wanted, {self.block_size} was given."
            )


@dataclass(frozen=True, kw_only=True)
class TorchAOAdamW8bit(TorchAOAdamW):
    """States of 8 bits (Dettmers et al. 2021, arXiv:2110.02861), or with ``adamw_torch_fp8`` as fp8."""

    state_bits: ClassVar[int] = 8


@dataclass(frozen=True, kw_only=True)
class TorchAOAdamW4bit(TorchAOAdamW):
    """States of 4 bits (Li et al. 2023, arXiv:2309.01507)."""

    state_bits: ClassVar[int] = 4


# -- bitsandbytes ------------------------------------------------------------------------------------

BNB_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class BitsAndBytes(OptimizerOptions):
    """What the optimizers of bitsandbytes share; those in 32 bits keep fp32 states whatever the weights are.

    A paged one keeps its states in memory that moves between GPU and CPU as needed; on the CPU it is the
    plain one.
    """

    package: ClassVar[Package] = Package("bitsandbytes", extra="bitsandbytes")
    optim_bits: ClassVar[int] = 32
    states: ClassVar[int]

    @property
    def state_tensors(self) -> float:
        """In numbers of fp32; a block of 8-bit numbers has one fp32 scale."""
        return self.states * (1 if self.optim_bits == 32 else 1 / 4 + 1 / BNB_BLOCK)


@dataclass(frozen=True, kw_only=True)
class BitsAndBytes8bit(BitsAndBytes):
    """States of 8 bits in blocks of 256 (Dettmers et al. 2021, arXiv:2110.02861).

    Embeddings, and weights of fewer than ``min_8bit_size`` numbers, keep states of 32 bits.
    """

    optim_bits: ClassVar[int] = 8

    min_8bit_size: int = 4096

    @property
    def keeps_embeddings(self) -> bool:
        return True

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "min_8bit_size")


@dataclass(frozen=True, kw_only=True)
class BnbAdamW(BitsAndBytes, AdamW):
    """AdamW of bitsandbytes."""

    states: ClassVar[int] = 2


@dataclass(frozen=True, kw_only=True)
class BnbAdamW8bit(BitsAndBytes8bit, BnbAdamW):
    """AdamW with states of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class BnbLion(BitsAndBytes):
    """Steps by the sign of a momentum (Chen et al. 2023, arXiv:2302.06675); wants a tenth of AdamW's rate."""

    states: ClassVar[int] = 1

    adam_beta1: float = 0.9
    adam_beta2: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_no_share(self, "adam_beta1", "adam_beta2")


@dataclass(frozen=True, kw_only=True)
class BnbLion8bit(BitsAndBytes8bit, BnbLion):
    """Lion with a state of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class BnbAdEMAMix(BitsAndBytes, AdamW):
    """AdamW with a second, slow mean of the gradients (Pagliardini et al. 2024, arXiv:2409.03137).

    That mean decays by ``beta3`` and counts ``alpha`` times; both grow to these values over ``t_beta3`` and
    ``t_alpha`` steps, if given. ``beta1``, ``beta2`` and ``eps`` are other names of ``adam_beta1``,
    ``adam_beta2`` and ``adam_epsilon``, and go before them.
    """

    states: ClassVar[int] = 3

    beta1: float | None = None
    beta2: float | None = None
    beta3: float = 0.9999
    alpha: float = 5.0
    eps: float | None = None
    t_alpha: int | None = None
    t_beta3: int | None = None

    @property
    def betas(self) -> tuple[float, float, float]:
        """The decays of the fast mean, of the squares' and of the slow mean."""
        beta1 = self.adam_beta1 if self.beta1 is None else self.beta1
        return beta1, self.adam_beta2 if self.beta2 is None else self.beta2, self.beta3

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "alpha", "eps")
        refuse_no_share(self, "beta1", "beta2", "beta3")
        for name in ("t_alpha", "t_beta3"):
            steps = getattr(self, name)
            if steps is not None and steps < 1:
                raise ValueError(f"{name}: at least 1 is wanted, {steps} was given.")
        if self.t_beta3 is not None and not (self.betas[0] and self.beta3):
            raise ValueError("t_beta3: it wants beta1 and beta3 above 0, as it goes from one to the other.")


@dataclass(frozen=True, kw_only=True)
class BnbAdEMAMix8bit(BitsAndBytes8bit, BnbAdEMAMix):
    """AdEMAMix with states of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class BnbRMSprop(BitsAndBytes):
    """RMSprop of bitsandbytes, which has no momentum and is not centered."""

    states: ClassVar[int] = 1

    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_negative(self, "eps")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: between 0 and 1 is wanted, {self.alpha} was given.")


@dataclass(frozen=True, kw_only=True)
class BnbRMSprop8bit(BitsAndBytes8bit, BnbRMSprop):
    """RMSprop with a state of 8 bits."""
