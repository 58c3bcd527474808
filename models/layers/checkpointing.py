"""Gradient checkpointing: a layer keeps its inputs only, and is computed again in the backward pass.

Source: Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.options import CheckpointingOptions

T = TypeVar("T")


def checkpointed(options: CheckpointingOptions, layer: Callable[..., T], x: Tensor, *rest: Any) -> T:
    """``layer(x, *rest)``, to be computed again in the backward pass; gradients flow through ``x``."""
    if options.use_reentrant and not x.requires_grad:
        # The reentrant kind gives no gradient at all unless an input wants one: frozen embeddings do not.
        x = x.detach().requires_grad_()
    return checkpoint(layer, x, *rest, **vars(options))
