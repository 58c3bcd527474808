"""The interface of a streaming metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from trainer.objectives.objective import Prediction


class Metric(Protocol):
    """Measures a data set batch by batch.

    ``names`` are those of the figures it gives; ``needs_logits`` is false where the summed loss is enough.
    """

    names: tuple[str, ...]
    needs_logits: bool

    def reset(self) -> None:
        """Forget everything, before a pass over a data set."""

    def update(self, prediction: Prediction) -> None:
        """Take one batch into account; nothing of it may be kept."""

    def state(self) -> Any:
        """What was seen since ``reset``: plain numbers, as many of them however long the data is."""

    def compute(self, states: Sequence[Any]) -> dict[str, float]:
        """The figures by name, from the states of all ranks and data sets; none if nothing was counted."""
