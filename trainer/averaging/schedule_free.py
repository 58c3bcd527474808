"""The weights of a schedule-free optimizer (Defazio et al. 2024, arXiv:2405.15682).

It takes gradients at y, between its average x and a sequence z of plain steps. What is evaluated and saved is
x. Such an optimizer offers ``train`` and ``eval``, which make y of x and x of y.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.averaging.averaging import assign, named_parameters


class ScheduleFreeWeights:
    """Lets the optimizer put x in place of y; y comes back as it was, where its own switch would round it."""

    def __init__(self, optimizer: Any):
        self.optimizer = optimizer
        optimizer.train()

    def update(self, updates: int) -> None:
        """Nothing: the optimizer's own step moves x."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        parameters = [parameter for _, parameter in named_parameters(self.optimizer)]
        kept = [parameter.detach().clone() for parameter in parameters]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            assign(parameters, kept)

    def settle(self) -> None:
        self.optimizer.eval()

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}/weight": weight.detach() for name, weight in named_parameters(self.optimizer)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        named = dict(named_parameters(self.optimizer))
        assign([*named.values()], [tensors[f"{name}/weight"] for name in named])


def switches_weights(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer has an average of its own to switch to."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
