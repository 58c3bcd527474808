"""What every head is: a module from a backbone's outputs to a task's scores and losses.

A head knows no family. Its parameters' names in checkpoints are in each family's ``convert.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from models.config import ModelConfig
from models.outputs import ModelOutput


class Head(nn.Module):
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
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        raise NotImplementedError

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The backbone's inputs made of the model's: the same, but for heads with several texts a row."""
        return inputs

    def outputs(self, backbone: ModelOutput, inputs: Mapping[str, Any], **task: Any) -> ModelOutput:
        """What the model returns, from the backbone's output, the model's ``inputs`` and the head's own.

        The loss is a mean as the reference's, or with ``num_items_in_batch`` the sum divided by that.
        """
        raise NotImplementedError


def mean_or_share(total: Tensor, count: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """A summed loss over its own ``count`` of items, or over those of a whole step."""
    return total / (count if num_items_in_batch is None else num_items_in_batch)
