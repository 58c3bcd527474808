"""Torch's own optimizers."""

from __future__ import annotations

from typing import Any

import torch

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.options import SGD, AdafactorTorch, Adagrad, AdamW, RMSprop


def adam_arguments(options: AdamW) -> dict[str, Any]:
    """The arguments that all kinds of Adam have in common."""
    return {
        "lr": options.learning_rate,
        "betas": (options.adam_beta1, options.adam_beta2),
        "eps": options.adam_epsilon,
    }


@ByClass
def adamw(options: AdamW) -> Choice:
    """AdamW, one operation after another."""
    return torch.optim.AdamW, adam_arguments(options)


@ByClass
def adamw_fused(options: AdamW) -> Choice:
    """AdamW in one kernel for all parameters."""
    return torch.optim.AdamW, {**adam_arguments(options), "fused": True}


@ByClass
def sgd(options: SGD) -> Choice:
    return torch.optim.SGD, {
        "lr": options.learning_rate,
        "momentum": options.momentum,
        "dampening": options.dampening,
        "nesterov": options.nesterov,
    }


@ByClass
def adagrad(options: Adagrad) -> Choice:
    return torch.optim.Adagrad, {
        "lr": options.learning_rate,
        "lr_decay": options.lr_decay,
        "initial_accumulator_value": options.initial_accumulator_value,
        "eps": options.eps,
    }


@ByClass
def rmsprop(options: RMSprop) -> Choice:
    return torch.optim.RMSprop, {
        "lr": options.learning_rate,
        "alpha": options.alpha,
        "eps": options.eps,
        "momentum": options.momentum,
        "centered": options.centered,
    }


@ByClass
def adafactor(options: AdafactorTorch) -> Choice:
    return torch.optim.Adafactor, {
        "lr": options.learning_rate,
        "beta2_decay": options.beta2_decay,
        "eps": (options.eps1, options.eps2),
        "d": options.d,
    }
