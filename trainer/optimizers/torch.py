"""Torch's own optimizers, and which parameters decay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer.optimizers.options import SGD, AdamW


def adamw(options: AdamW, groups: list[dict[str, Any]], *, fused: bool = False) -> torch.optim.Optimizer:
    """AdamW over the groups of ``parameter_groups``."""
    return torch.optim.AdamW(
        groups,
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        fused=fused,
    )


def adamw_fused(options: AdamW, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW in one kernel for all parameters."""
    return adamw(options, groups, fused=True)


def sgd(options: SGD, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """SGD over the groups of ``parameter_groups``."""
    return torch.optim.SGD(
        groups, lr=options.learning_rate, momentum=options.momentum, nesterov=options.nesterov
    )


def parameter_groups(
    model: nn.Module,
    names: Mapping[str, str],
    weight_decay: float,
    *,
    decayed: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: those that decay, and norms and biases, which do not.

    Without decay all are one group, as each costs a call a step.

    ``names`` maps the model's parameter names to the checkpoint's, under which the groups list them
    (``param_names``). A parameter that is used under several names is taken once. ``decayed`` names those
    that decay, if it is not for ``decays`` to say.
    """
    with_decay: list[tuple[str, Tensor]] = []
    others: list[tuple[str, Tensor]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = decays(parameter) if decayed is None else name in decayed
            (with_decay if is_decayed and weight_decay else others).append((names[name], parameter))
    return [
        {"params": [p for _, p in members], "param_names": [n for n, _ in members], "weight_decay": decay}
        for members, decay in ((with_decay, weight_decay), (others, 0.0))
        if members
    ]


def decays(parameter: Tensor) -> bool:
    """Whether weight decay is for this parameter: matrices and tables, and not norms and biases."""
    return parameter.ndim >= 2
