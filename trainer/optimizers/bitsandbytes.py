"""The optimizers of the package bitsandbytes.

Paged ones keep large states in memory that the driver moves between GPU and CPU; on the CPU the package says
that it keeps them as the others do.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes.functional
import bitsandbytes.optim
import torch
from torch import Tensor

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.package_options import (
    BitsAndBytes,
    BitsAndBytes8bit,
    BnbAdamW,
    BnbAdEMAMix,
    BnbLion,
    BnbRMSprop,
)
from trainer.optimizers.torch import adam_arguments

PAGED_STATES = ("state1", "state2")
PAGED_FROM = 10**5  # numbers of a parameter, as the package has it


class _Grouped(bitsandbytes.optim.optimizer.Optimizer8bit):
    """Keeps embeddings at 32 bits by the role of their group, and gives restored states the right memory.

    The package's own way to name parameters is one table for the whole program, by the ids of tensors.
    """

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        config = super().get_config(gindex, pindex, group)
        if group.get("role") == "embedding":
            config["optim_bits"] = 32
        return config

    def memory_for(self, parameter: Tensor, state: str, like: Tensor) -> Tensor:
        """Memory for a state read from a checkpoint: paged where a new one would be."""
        is_paged = self.is_paged and state in PAGED_STATES and parameter.numel() >= PAGED_FROM
        if not is_paged or parameter.device.type == "cpu":
            return torch.empty_like(like, device=parameter.device)
        memory = bitsandbytes.functional.get_paged(*like.shape, dtype=like.dtype, device=parameter.device)
        self.page_mng.paged_tensors.append(memory)
        return memory


class AdamW(_Grouped, bitsandbytes.optim.AdamW):
    """The package's, with embeddings at 32 bits."""


class Lion(_Grouped, bitsandbytes.optim.Lion):
    """The package's, with embeddings at 32 bits."""


class AdEMAMix(_Grouped, bitsandbytes.optim.AdEMAMix):
    """The package's, with embeddings at 32 bits; a paged one works on the CPU too."""

    def _get_state_double_buffer(self, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory for both means, which the package would page without looking for a GPU."""
        if p.device.type == "cpu":
            return torch.zeros((2, *p.shape), dtype=dtype)
        return super()._get_state_double_buffer(p, dtype)


class RMSprop(_Grouped, bitsandbytes.optim.RMSprop):
    """The package's, with embeddings at 32 bits."""


@ByClass
def adamw(options: BnbAdamW) -> Choice:
    return AdamW, {**adam_arguments(options), **_bits(options)}


@ByClass
def paged_adamw(options: BnbAdamW) -> Choice:
    return _paged(adamw.choose(options))


@ByClass
def lion(options: BnbLion) -> Choice:
    betas = options.adam_beta1, options.adam_beta2
    return Lion, {"lr": options.learning_rate, "betas": betas, **_bits(options)}


@ByClass
def paged_lion(options: BnbLion) -> Choice:
    return _paged(lion.choose(options))


@ByClass
def ademamix(options: BnbAdEMAMix) -> Choice:
    return AdEMAMix, {
        "lr": options.learning_rate,
        "betas": options.betas,
        "alpha": options.alpha,
        "eps": options.adam_epsilon if options.eps is None else options.eps,
        "t_alpha": options.t_alpha,
        "t_beta3": options.t_beta3,
        **_bits(options),
    }


@ByClass
def paged_ademamix(options: BnbAdEMAMix) -> Choice:
    return _paged(ademamix.choose(options))


@ByClass
def rmsprop(options: BnbRMSprop) -> Choice:
    arguments = {"lr": options.learning_rate, "alpha": options.alpha, "eps": options.eps}
    return RMSprop, {**arguments, **_bits(options)}


def _bits(options: BitsAndBytes) -> dict[str, Any]:
    """The arguments that say how states are kept."""
    if isinstance(options, BitsAndBytes8bit):
        return {"optim_bits": 8, "min_8bit_size": options.min_8bit_size}
    return {"optim_bits": options.optim_bits}


def _paged(choice: Choice) -> Choice:
    cls, arguments = choice
    return cls, {**arguments, "is_paged": True}
