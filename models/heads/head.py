"""What every head is: a module from a backbone's outputs to a task's scores and losses.

A head knows no family. Its parameters' names in checkpoints are in each family's ``convert.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.classification import class_loss
from models.outputs import ModelOutput, passed_on


class Head(nn.Module, ABC):
    """The base of all heads.

    ``name`` is its key in ``models.HEADS``. ``reads``: the fields of the backbone's output that ``forward``
    is called with, in order. ``inputs``: those of the model's inputs that are the head's, not the backbone's.
    ``forward`` gives scores. Losses are sums, in fp32, so that they can be divided by the weight of a whole
    step: ``nll`` or the like, which take what ``forward`` takes and the labels.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    inputs: ClassVar[tuple[str, ...]] = ("labels", "num_items_in_batch")

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The backbone's inputs made of the model's: the same, but for heads with several texts a row."""
        return inputs

    @abstractmethod
    def outputs(self, backbone: ModelOutput, inputs: Mapping[str, Any], **task: Any) -> ModelOutput:
        """What the model returns, from the backbone's output, the model's ``inputs`` and the head's own.

        The loss is a mean as the reference's, or with ``num_items_in_batch`` the sum divided by that.
        """


class ScoringHead(Head):
    """A head with one set of scores and labels for them; ``output`` is the type of what it returns."""

    output: ClassVar[type[ModelOutput]]

    def scores(self, backbone: ModelOutput, inputs: Mapping[str, Any]) -> Tensor:
        """What ``forward`` gives for the backbone's output and the model's ``inputs``."""
        return self(*(backbone[name] for name in self.reads))

    def summed(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The summed loss, and of how many items: cross-entropy of classes, -100 for none."""
        return class_loss(scores, labels)

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> ModelOutput:
        """Scores; with labels the loss: the mean, or the sum over ``num_items_in_batch``."""
        scores, loss = self.scores(backbone, inputs), None
        if labels is not None:
            loss = mean_or_share(*self.summed(scores, labels), num_items_in_batch)
        return self.output(loss=loss, logits=scores, **passed_on(backbone, self.output))


def mean_or_share(total: Tensor, count: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """A summed loss over its own ``count`` of items, or over those of a whole step."""
    return total / (count if num_items_in_batch is None else num_items_in_batch)
