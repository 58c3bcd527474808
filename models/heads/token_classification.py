"""The token classification head: scores of every token, as for named entities.

Shapes: B batch, T tokens, D hidden, L labels.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.chunked import supervised
from models.heads.classification import class_loss
from models.heads.head import ScoringHead
from models.outputs import ModelOutput, TokenClassifierOutput


class TokenClassificationHead(ScoringHead):
    """Dropout and a linear layer, the same at each token of an encoder or a decoder."""

    name: ClassVar[str] = "token_classification"
    output: ClassVar[type[ModelOutput]] = TokenClassifierOutput

    def __init__(self, hidden_size: int, num_labels: int, *, dropout: float = 0.0):
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_labels)
        self.dropout = dropout

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(config.hidden_size, config.num_labels, dropout=config.head_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., L)"""
        return self.classifier(F.dropout(hidden, self.dropout, self.training))

    def loss_sum(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy, an fp32 scalar; labels (B, T) are classes, -100 where none is asked for."""
        hidden, labels = supervised(hidden, labels)
        return class_loss(self(hidden), labels)[0]
