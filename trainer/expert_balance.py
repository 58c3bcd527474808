"""Balancing experts without a loss for it: biases move towards those that got too few tokens.

Source: Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts (Wang et al., 2024), as used by
DeepSeek-V3. Shapes: L layers with experts, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from models.layers.experts import MixtureOfExperts
from trainer.ranks.ranks import unwrap

LOAD = "expert_load"
UPDATE_RATE = 0.001


def loads(model: nn.Module, *, counts: bool) -> dict[str, Tensor]:
    """How many tokens each expert got in the forward pass just made (L, E), as metrics of a loss.

    Nothing for models without experts, and in evaluation. Zeros unless it ``counts``.
    """
    load = getattr(getattr(unwrap(model), "backbone", None), LOAD, None)
    return {} if load is None else {LOAD: load if counts else torch.zeros_like(load)}


@torch.no_grad()
def balance(model: nn.Module, load: Tensor, rate: float) -> None:
    """Raise the bias of each expert that got fewer tokens (L, E) than the mean, and lower the others'.

    A layer whose router is frozen chooses as before: its biases stay.
    """
    for mixture, got in zip(_mixtures(model), load, strict=True):
        if mixture.router.gate.weight.requires_grad:
            mixture.expert_bias += rate * (got.mean() - got).sign().to(mixture.expert_bias)


def measures(load: Tensor) -> dict[str, float]:
    """The most and the fewest tokens (L, E) of an expert, over its layer's mean; the share without any."""
    shares = load / load.mean(dim=-1, keepdim=True)
    return {
        "expert_load_max": float(shares.max()),
        "expert_load_min": float(shares.min()),
        "experts_unused": float((load == 0).double().mean()),
    }


def refuse_without_experts(model: nn.Module, rate: float | None) -> None:
    """``ConfigError`` where a rate was asked for and the model has no experts to balance."""
    if rate is not None and not _mixtures(model):
        raise ConfigError(
            f"objective.expert_bias_update_rate: this {unwrap(model).config.model_type} has no experts; "
            "leave it out."
        )


def _mixtures(model: nn.Module) -> list[MixtureOfExperts]:
    """The layers with experts, in the order of their loads."""
    return [module for module in unwrap(model).modules() if isinstance(module, MixtureOfExperts)]
