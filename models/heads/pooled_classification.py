"""The sequence classification head of encoders: scores from the pooled vector.

Shapes: B batch (or packed documents), D hidden, L labels.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig, ProblemType
from models.heads.classification import sequence_loss
from models.heads.head import ScoringHead
from models.outputs import ModelOutput, SequenceClassifierOutput


class PooledClassificationHead(ScoringHead):
    """Dropout and a linear layer; ``models.heads.classification.sequence_loss`` says which loss is taken."""

    name: ClassVar[str] = "pooled_classification"
    output: ClassVar[type[ModelOutput]] = SequenceClassifierOutput
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
        return self.summed(self(pooled), labels)[0]

    def summed(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The loss of the kind of problem, and of how many items."""
        return sequence_loss(scores, labels, self.problem_type)
