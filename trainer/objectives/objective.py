"""The interface of a training method.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Sums, not means: one scalar tensor for each term, and sums of metrics to be logged."""

    terms: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A training method. ``coefficients`` weighs its terms in what is minimised."""

    head: str
    coefficients: Mapping[str, float]

    def collator(self, *, packing: bool) -> str:
        """The name of the collator that makes this method's batches."""

    def weights(self, batch: Batch) -> Mapping[str, int]:
        """How many examples or tokens each term counts in this batch, from the batch alone."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The summed terms of this batch."""

    def after_update(self, model: nn.Module, state: Any) -> None:
        """Called after each optimizer step."""
