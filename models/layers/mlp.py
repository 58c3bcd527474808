"""Feed-forward blocks and their activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.linear import linear


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
}


class GatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``: SwiGLU with ``silu`` (Shazeer, 2020)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: str, *, bias: bool, slices: int = 1
    ):
        super().__init__()
        self.gate_proj = linear(hidden_size, intermediate_size, bias, slices=slices, along="out")
        self.up_proj = linear(hidden_size, intermediate_size, bias, slices=slices, along="out")
        self.down_proj = linear(intermediate_size, hidden_size, bias, slices=slices, along="in")
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
