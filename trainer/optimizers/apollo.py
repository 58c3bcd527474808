"""APOLLO: gradients scaled as AdamW scales their projection (Zhu et al. 2024, arXiv:2412.05270)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.optimizers import low_rank_options
from trainer.optimizers.builder import ByClass
from trainer.optimizers.galore import low_rank_arguments
from trainer.optimizers.low_rank_adam import adam_direction, adam_step_size, decay
from trainer.optimizers.per_parameter import PerParameterOptimizer
from trainer.optimizers.projection import (
    Projection,
    at_random,
    by_singular_vectors,
    current_projection,
    is_projected,
    next_seed,
)
from trainer.optimizers.torch import adam_arguments

MAX_NORM_GROWTH = 1.01  # from one update to the next, as in Fira (Chen et al. 2024, arXiv:2410.01623)
NO_ZERO = 1e-8  # added to norms that are divided by


class APOLLOAdamW(PerParameterOptimizer):
    """AdamW whose moments say how strongly a gradient is scaled, and are those of its projection.

    That holds for groups of role "targeted"; the others are trained as by AdamW. A random projection follows
    from the parameter's place among all and from how many came before it, not from torch's own generators.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 1.0,
        proj_type: str = "std",
        proj: str = "random",
        scale_type: str = "channel",
        in_backward: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_proj_gap": update_proj_gap,
            "scale": scale,
            "proj_type": proj_type,
            "proj": proj,
            "scale_type": scale_type,
        }
        super().__init__(params, defaults, in_backward=in_backward)
        if proj == "random":
            self._seed_projections()

    def _seed_projections(self) -> None:
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if is_projected(group):
                    self.state[parameter]["seed"] = place

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        if is_projected(group):
            direction = _scaled_gradient(grad, state, group)
        else:
            direction = adam_direction(grad, state, group)
        parameter.sub_(direction, alpha=adam_step_size(state, group))
        decay(parameter, group)


@ByClass
def adamw(options: low_rank_options.ApolloAdamW) -> tuple[type[APOLLOAdamW], dict[str, Any]]:
    arguments = {**adam_arguments(options), **low_rank_arguments(options)}
    return APOLLOAdamW, {**arguments, "proj": options.proj, "scale_type": options.scale_type}


def _scaled_gradient(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    make = by_singular_vectors if group["proj"] == "svd" else partial(_next_at_random, state=state)
    projection = current_projection(grad, state, group, make)
    low = projection.down(grad)
    direction = adam_direction(low, state, group)
    # The factor of a whole tensor, or of each channel: along the dimension that the rank took the place of.
    dim = projection.channel_dim if group["scale_type"] == "channel" else None
    norm = partial(torch.linalg.vector_norm, dim=dim, keepdim=True)
    scaled = grad * (norm(direction) / (norm(low) + NO_ZERO))
    return _limited(scaled, state) * math.sqrt(group["scale"])


def _limited(scaled: Tensor, state: dict[str, Any]) -> Tensor:
    """An update whose norm is at most 1 % more than that of the one before."""
    norm = torch.linalg.vector_norm(scaled)
    if "update_norm" in state:
        growth = norm / (state["update_norm"] + NO_ZERO)
        excess = growth.clamp(min=MAX_NORM_GROWTH) / MAX_NORM_GROWTH
        scaled, norm = scaled / excess, norm / excess
    state["update_norm"] = norm
    return scaled


def _next_at_random(gradient: Tensor, rank: int, side: str, *, state: dict[str, Any]) -> Projection:
    made = at_random(gradient, rank, side, seed=state["seed"])
    state["seed"] = next_seed(state["seed"])
    return made
