"""Which average stands in for the weights of a run."""

from __future__ import annotations

import torch

from conf.plugins import thing_of
from trainer.averaging import CATALOG
from trainer.averaging.averaging import Averaging
from trainer.averaging.schedule_free import ScheduleFreeWeights, switches_weights
from trainer.config import RunConfig


def averaging_of(config: RunConfig, optimizer: torch.optim.Optimizer) -> Averaging | None:
    """What stands in for the weights of this optimizer: the average asked for, or the optimizer's own."""
    if switches_weights(optimizer):
        return ScheduleFreeWeights(optimizer)
    chosen = config.averaging
    return thing_of(CATALOG, chosen.name, "averaging.name")(chosen.options, optimizer)
