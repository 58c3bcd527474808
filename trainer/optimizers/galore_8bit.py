"""GaLore's AdamW with moments of 8 bits, through the kernels of bitsandbytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from bitsandbytes.functional import create_dynamic_map, optimizer_update_8bit_blockwise
from torch import Tensor

from trainer.optimizers import low_rank_options
from trainer.optimizers.builder import ByClass
from trainer.optimizers.galore import GaLoreAdamW, low_rank_arguments
from trainer.optimizers.low_rank_adam import decay
from trainer.optimizers.projection import current_projection, is_projected
from trainer.optimizers.torch import adam_arguments

BLOCK_SIZE = 256  # numbers that share a scale; the kernel's own


class GaLoreAdamW8bit(GaLoreAdamW):
    """AdamW of bitsandbytes whose moments are those of the projected gradient, in groups of role "targeted".

    Moments are of 8 bits in blocks (Dettmers et al. 2021, arXiv:2110.02861), or of fp32 where they have fewer
    than ``min_8bit_size`` numbers. Weights that are not projected decay before their update, as in
    bitsandbytes, the projected ones after it, as in GaLore.
    """

    def __init__(self, params: Iterable[Any], *, min_8bit_size: int = 4096, **galore: Any) -> None:
        self.min_8bit_size = min_8bit_size
        self._codes: dict[torch.device, tuple[Tensor, Tensor]] = {}
        super().__init__(params, **galore)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        if not is_projected(group):
            decay(parameter, group)
            self._take_step(parameter, grad, state, group)
            return
        projection = current_projection(grad, state, group)
        low = projection.down(grad)
        change = torch.zeros_like(low)
        self._take_step(change, low, state, group)
        parameter.add_(projection.up(change), alpha=group["scale"])
        decay(parameter, group)

    def _take_step(self, target: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Adam's step, without decay, on ``target`` in place."""
        if "state1" not in state:
            self._begin(grad, state)
        if state["state1"].dtype == torch.uint8:
            self._step_in_8_bits(target, grad, state, group)
        else:
            _step_in_fp32(target, grad, state, group)

    def _begin(self, grad: Tensor, state: dict[str, Any]) -> None:
        is_small = grad.numel() < self.min_8bit_size
        for moment in "12":
            dtype = torch.float32 if is_small else torch.uint8
            state[f"state{moment}"] = torch.zeros_like(grad, dtype=dtype)
            if not is_small:
                blocks = math.ceil(grad.numel() / BLOCK_SIZE)
                state[f"absmax{moment}"] = torch.zeros(blocks, dtype=torch.float32, device=grad.device)

    def _step_in_8_bits(
        self, target: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        beta1, beta2 = group["betas"]
        signed, unsigned = self._code(grad.device)
        optimizer_update_8bit_blockwise(
            "adam",
            g=grad.contiguous(),
            p=target,
            state1=state["state1"],
            state2=state["state2"],
            beta1=beta1,
            beta2=beta2,
            beta3=0.0,
            alpha=0.0,
            eps=group["eps"],
            step=state["step"],
            lr=group["lr"],
            qmap1=signed,
            qmap2=unsigned,
            absmax1=state["absmax1"],
            absmax2=state["absmax2"],
        )

    def _code(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the 256 numbers of 8 bits stand for, of the first moment and of the second."""
        if device not in self._codes:
            self._codes[device] = (
                create_dynamic_map(signed=True).to(device),
                create_dynamic_map(signed=False).to(device),
            )
        return self._codes[device]


@ByClass
def adamw(options: low_rank_options.GaLoreAdamW8bit) -> tuple[type[GaLoreAdamW8bit], dict[str, Any]]:
    arguments = {**adam_arguments(options), **low_rank_arguments(options)}
    return GaLoreAdamW8bit, {**arguments, "min_8bit_size": options.min_8bit_size}


def _step_in_fp32(target: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    grad = grad.float()
    first = state["state1"].mul_(beta1).add_(grad, alpha=1.0 - beta1)
    second = state["state2"].mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
    root = (second / (1.0 - beta2 ** state["step"])).sqrt_()
    change = first / root.add_(group["eps"])
    target.sub_(change.mul_(group["lr"] / (1.0 - beta1 ** state["step"])))
