"""The sequence classification head of encoders: scores from the pooled vector.

Shapes: B batch (or packed documents), D hidden, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig, ProblemType
from models.heads.classification import sequence_loss
from models.heads.head import Head, mean_or_share
from models.outputs import ModelOutput, SequenceClassifierOutput, passed_on


class PooledClassificationHead(Head):
    """Dropout and a linear layer; ``models.heads.classification.sequence_loss`` says which loss is taken."""

    name: ClassVar[str] = "pooled_classification"
    reads: ClassVar[tuple[str, ...]] = ("pooler_output",)

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        dropout: float = 0.0,
        problem_type: ProblemType | None = None,
    ):
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_labels)
        self.dropout, self.problem_type = dropout, problem_type

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(
            config.hidden_size,
            config.num_labels,
            dropout=config.head_dropout,
            problem_type=config.problem_type,
        )

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, L)"""
        return self.classifier(F.dropout(pooled, self.dropout, self.training))

    def loss_sum(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """The sequences' summed loss, an fp32 scalar; a class of -100 is not counted."""
        return sequence_loss(self(pooled), labels, self.problem_type)[0]

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> SequenceClassifierOutput:
        """Scores of each sequence; with labels the loss: the mean, or the sum over ``num_items_in_batch``."""
        logits, loss = self(backbone.pooler_output), None
        if labels is not None:
            total, count = sequence_loss(logits, labels, self.problem_type)
            loss = mean_or_share(total, count, num_items_in_batch)
        extras = passed_on(backbone, SequenceClassifierOutput)
        return SequenceClassifierOutput(loss=loss, logits=logits, **extras)
