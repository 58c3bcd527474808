"""Fresh weights."""

from __future__ import annotations

import torch
from torch import nn


def draw_weights(module: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Draw everything in ``module``, in the order of its modules; see ``draw_own_weights``."""
    for part in module.modules():
        draw_own_weights(part, std, generator)


@torch.no_grad()
def draw_own_weights(part: nn.Module, std: float, generator: torch.Generator | None = None) -> None:
    """Draw what ``part`` holds itself, not what the modules in it hold.

    Linear layers and embeddings are normal(0, ``std``) with zero biases and padding rows; what has an
    ``init_weights(std, generator)`` draws its own parameters; norms and the like have ``reset_parameters``.
    Works after ``to_empty`` on what was made on the meta device.
    """
    if hasattr(part, "init_weights"):
        part.init_weights(std, generator)
    elif isinstance(part, (nn.Linear, nn.Embedding)):
        nn.init.normal_(part.weight, std=std, generator=generator)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            part.weight[part.padding_idx].zero_()
    elif hasattr(part, "reset_parameters"):
        part.reset_parameters()
    if isinstance(part, nn.Linear) and part.bias is not None:
        nn.init.zeros_(part.bias)
