"""Linear layers, whole or computed in slices."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Along = Literal["out", "in"]


class SlicedLinear(nn.Linear):
    """A linear layer computed slice by slice, as tensor-parallel training computed it.

    ``along="out"`` concatenates slices of the outputs, ``along="in"`` adds up partial products over slices of
    the inputs. The parameters are those of ``nn.Linear``; only the order of rounding differs.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, *, slices: int, along: Along):
        super().__init__(in_features, out_features, bias=bias)
        self.slices, self.along = slices, along

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)"""
        if self.along == "out":
            out = torch.cat([F.linear(x, w) for w in self.weight.chunk(self.slices, dim=0)], dim=-1)
        else:
            parts = zip(x.chunk(self.slices, dim=-1), self.weight.chunk(self.slices, dim=1), strict=True)
            out = sum(F.linear(part, w) for part, w in parts)
        return out if self.bias is None else out + self.bias


def linear(
    in_features: int, out_features: int, bias: bool, *, slices: int = 1, along: Along = "out"
) -> nn.Linear:
    """A plain ``nn.Linear``, or a sliced one when ``slices`` is above 1."""
    if slices == 1:
        return nn.Linear(in_features, out_features, bias=bias)
    return SlicedLinear(in_features, out_features, bias, slices=slices, along=along)
