"""Layers of ours computed by Liger's Triton kernels; parameters and their names stay what they are.

Loaded by ``models.kernels`` alone: importing it imports Liger. Each class is an existing layer with another
``forward``, and a layer is replaced by giving it that class, so that copies of a model keep the kernels.
Source: Liger Kernel (Hsu et al., 2024). Shapes: B batch, T tokens, n supervised tokens, D hidden, V
vocabulary, H heads, K key/value heads, C channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from liger_kernel.ops import (
    LigerCrossEntropyFunction,
    LigerFusedLinearCrossEntropyFunction,
    LigerRMSNormFunction,
    LigerRopeFunction,
    LigerSiLUMulFunction,
)
from torch import Tensor, nn

from models.heads.causal_lm import CausalLMHead
from models.heads.chunked import IGNORED, supervised
from models.layers.mlp import GatedMLP
from models.layers.norm import RMSNorm
from models.layers.rotary import rotate_both


class LigerRMSNorm(RMSNorm):
    """Normalization in one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        # Not in place: where the output is added to a residual, its gradient is not this layer's alone.
        return LigerRMSNormFunction.apply(x, self.weight, self.eps, 0.0, "llama", False)


class LigerSwiGLU(GatedMLP):
    """A gated block with ``silu``, whose activation and product are one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))


class LigerFusedCausalLMHead(CausalLMHead):
    """The head whose loss and linear layer are one kernel, chunk by chunk."""

    def nll(self, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """As ``CausalLMHead.nll``."""
        hidden, labels = supervised(hidden, labels)
        if not len(labels):
            return super().nll(hidden, labels, smoothing)
        if torch.is_grad_enabled() and self.weight.requires_grad and not hidden.requires_grad:
            hidden = hidden.detach().requires_grad_()  # without it the kernel gives the weight no gradient
        return LigerFusedLinearCrossEntropyFunction.apply(
            *(hidden, self.weight, labels, None, None, IGNORED, 0.0, smoothing, "sum", None, False),
            torch.float32,  # the weight's gradient is summed in
        )[0]


class LigerCausalLMHead(CausalLMHead):
    """The head whose loss is a kernel on whole logits."""

    def nll(self, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """As ``CausalLMHead.nll``, but all logits (n, V) exist at once."""
        hidden, labels = supervised(hidden, labels)
        if not len(labels):
            return super().nll(hidden, labels, smoothing)
        logits = F.linear(hidden, self.weight).float()
        return LigerCrossEntropyFunction.apply(logits, labels, None, IGNORED, 0.0, smoothing, "sum")[0]


def rotate_both_by_liger(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As ``rotate_both``, but queries (B, H, T, C) and keys (B, K, T, C) are overwritten."""
    return LigerRopeFunction.apply(q, k, cos, sin)


def _rope(module: nn.Module) -> bool:
    fits = getattr(module, "rotate", None) is rotate_both
    if fits:
        module.rotate = rotate_both_by_liger
    return fits


def _class(ours: type[nn.Module], ligers: type[nn.Module]) -> Callable[[nn.Module], bool]:
    def replace(module: nn.Module) -> bool:
        # Exactly this class: one derived from it computes something else.
        fits = type(module) is ours and getattr(module, "activation", F.silu) is F.silu
        if fits:
            module.__class__ = ligers
        return fits

    return replace


# Each kernel's replacement of one module: whether it fitted there.
REPLACE: dict[str, Callable[[nn.Module], bool]] = {
    "rope": _rope,
    "rms_norm": _class(RMSNorm, LigerRMSNorm),
    "swiglu": _class(GatedMLP, LigerSwiGLU),
    "cross_entropy": _class(CausalLMHead, LigerCausalLMHead),
    "fused_linear_cross_entropy": _class(CausalLMHead, LigerFusedCausalLMHead),
}
