"""What goes wrong on purpose: gradients that overflow, and memory that runs out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection

import pytest
import torch

from trainer.ranks.ranks import Ranks


def after_backward(
    patch: pytest.MonkeyPatch, act: Callable[[Ranks], None], numbers: Collection[int] = range(1, 10**6)
) -> None:
    """Let ``act`` happen after the backward passes with these numbers, counted from 1."""
    original, calls = Ranks.backward, itertools.count(1)

    def watched(self: Ranks, loss: torch.Tensor) -> None:
        original(self, loss)
        if next(calls) in numbers:
            act(self)

    patch.setattr(Ranks, "backward", watched)


def overflow(ranks: Ranks) -> None:
    """A gradient that was too large for its type."""
    gradient = ranks._parameters[0].grad
    assert gradient is not None
    gradient.fill_(math.inf)


def run_out_of_memory(ranks: Ranks) -> None:
    """What torch raises when a device is full."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
