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
    """Sums, not means: one scalar tensor for each term, and what else is added up over a whole step.

    ``metrics`` are tensors of any shape, the same names and shapes on every rank; ``after_update`` gets their
    sums over the step's micro-batches and all ranks. ``propagated``: whoever computed them has gone back
    through them already.
    """

    terms: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    propagated: bool = False


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One batch looked at without learning: summed terms with their weights, what was said, what was right.

    ``terms`` and ``weights`` are empty where the batch has no labels. ``logits`` and ``labels`` are tensors
    (B, ...) or nestings of them; without logits only the loss was asked for. ``losses`` (B,) is the batch's
    mean loss, repeated. ``next_token``: the scores at a token are of the label one later.
    """

    terms: Mapping[str, Tensor]
    weights: Mapping[str, float]
    logits: Any = None
    labels: Any = None
    losses: Tensor | None = None
    next_token: bool = False


class Objective(Protocol):
    """A training method. ``coefficients`` weighs its terms in what is minimised."""

    head: str
    coefficients: Mapping[str, float]

    def collator(self, *, packing: bool) -> str:
        """The name of the collator that makes this method's batches."""

    def suits(self, model: nn.Module) -> None:
        """``ConfigError`` for an option that this model has no use for; it may be on the meta device."""

    def weights(self, batch: Batch) -> Mapping[str, int]:
        """How many examples or tokens each term counts in this batch, from the batch alone."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """The summed terms of this batch."""

    def predict(self, model: nn.Module, batch: Batch, *, loss_only: bool = False) -> Prediction:
        """What the model, in evaluation mode, makes of this batch; ``loss_only``: no more than the terms."""

    def predictions(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        """What is written of each row (each document of a packed row): names and plain values for JSON."""

    def after_update(self, model: nn.Module, metrics: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Called after each optimizer step with its summed ``Loss.metrics``; gives what is logged of them."""
