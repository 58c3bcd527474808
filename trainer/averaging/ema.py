"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.averaging.averaging import assign, exchanged, named_parameters
from trainer.averaging.options import EMA


class ExponentialMovingAverage:
    """Follows the parameters of an optimizer; the average is kept in fp32, on their device."""

    def __init__(self, options: EMA, optimizer: torch.optim.Optimizer):
        self.options = options
        named = dict(named_parameters(optimizer))
        self.names, self.parameters = [*named], [*named.values()]
        self.average = [parameter.detach().float().clone() for parameter in self.parameters]

    def update(self, updates: int) -> None:
        if updates % self.options.update_every == 0:
            current = [parameter.detach().float() for parameter in self.parameters]
            get_ema_multi_avg_fn(self.decay(updates))(self.average, current, updates)

    def decay(self, updates: int) -> float:
        """The share of itself that the average keeps at the update of this number."""
        decay = self.options.decay
        return min(decay, (1 + updates) / (10 + updates)) if self.options.warmup else decay

    def applied(self) -> AbstractContextManager[None]:
        return exchanged(self.parameters, self.average)

    def settle(self) -> None:
        assign(self.parameters, self.average)

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights, and the averages that the model's file rounds."""
        named = zip(self.names, self.parameters, self.average, strict=True)
        kept = {}
        for name, parameter, average in named:
            kept[f"{name}/weight"] = parameter.detach()
            if parameter.dtype is not torch.float32:
                kept[f"{name}/average"] = average
        return kept

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        pairs = [*zip(self.names, self.parameters, strict=True)]
        assign(self.average, [tensors.get(f"{name}/average", weight.detach()) for name, weight in pairs])
        assign(self.parameters, [tensors[f"{name}/weight"] for name in self.names])
