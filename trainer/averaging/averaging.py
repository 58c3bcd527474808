"""What stands in for the trained weights while they are evaluated and saved.

It is a collaborator of the run and not a callback, as no event comes before an evaluation or a save.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from trainer.averaging.options import NoAveraging


class Averaging(Protocol):
    """Keeps an average of an optimizer's parameters."""

    def update(self, updates: int) -> None:
        """Take in the weights after so many updates."""

    def applied(self) -> AbstractContextManager[None]:
        """While it lasts the parameters hold the average."""

    def settle(self) -> None:
        """Let the parameters hold the average for good."""

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the model that was saved, which holds the average."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from ``tensors``; the parameters hold the average that was saved."""


def no_averaging(options: NoAveraging, optimizer: torch.optim.Optimizer) -> None:
    """Nothing stands in."""


def named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Each parameter of an optimizer with its name in checkpoints."""
    for group in optimizer.param_groups:
        yield from zip(group["param_names"], group["params"], strict=True)


@contextmanager
def exchanged(parameters: list[Tensor], values: list[Tensor]) -> Iterator[None]:
    """While it lasts ``parameters`` hold ``values``; their own come back to the last bit."""
    with torch.no_grad():
        kept = [parameter.clone() for parameter in parameters]
        assign(parameters, values)
    try:
        yield
    finally:
        assign(parameters, kept)


@torch.no_grad()
def assign(parameters: list[Tensor], values: list[Tensor]) -> None:
    """Copy ``values`` into ``parameters``."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
