"""The schedule-free optimizers of the package schedulefree.

The package switches weights in place between those that are trained and their average. Here they stay those
that are trained, and ``trainer.averaging`` gives the average.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import schedulefree
import torch

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.package_options import (
    ScheduleFree,
    ScheduleFreeAdamW,
    ScheduleFreeRAdam,
    ScheduleFreeSGD,
)
from trainer.optimizers.torch import adam_arguments


class _InTraining(torch.optim.Optimizer):
    """Begins in the package's training mode, outside which it refuses to step."""

    def __init__(self, params: Iterable[Any], **arguments: Any):
        super().__init__(params, **arguments)
        self.train()  # type: ignore[attr-defined]


class AdamWScheduleFree(_InTraining, schedulefree.AdamWScheduleFree):
    """The package's, in training mode."""


class RAdamScheduleFree(_InTraining, schedulefree.RAdamScheduleFree):
    """The package's, in training mode."""


class SGDScheduleFree(_InTraining, schedulefree.SGDScheduleFree):
    """The package's, in training mode."""


@ByClass
def adamw(options: ScheduleFreeAdamW) -> Choice:
    return AdamWScheduleFree, {
        **adam_arguments(options),
        **_average(options),
        "warmup_steps": options.warmup_steps,
    }


@ByClass
def radam(options: ScheduleFreeRAdam) -> Choice:
    return RAdamScheduleFree, {
        **adam_arguments(options),
        **_average(options),
        "silent_sgd_phase": options.silent_sgd_phase,
    }


@ByClass
def sgd(options: ScheduleFreeSGD) -> Choice:
    return SGDScheduleFree, {
        "lr": options.learning_rate,
        "momentum": options.momentum,
        **_average(options),
        "warmup_steps": options.warmup_steps,
    }


def _average(options: ScheduleFree) -> dict[str, Any]:
    """The arguments that say what a step counts in the average."""
    return {"r": options.r, "weight_lr_power": options.weight_lr_power}
