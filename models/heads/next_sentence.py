"""The next-sentence head: whether the second of two texts follows the first one, from a pooled vector.

Source: BERT (Devlin et al., 2019), section 3.1. Shapes: B batch (or packed documents), D hidden.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.classification import class_loss
from models.heads.head import ScoringHead
from models.outputs import ModelOutput, NextSentencePredictorOutput


class NextSentenceHead(ScoringHead):
    """A linear layer to two scores: 0 says that the second text follows, 1 that it is any other."""

    name: ClassVar[str] = "next_sentence"
    output: ClassVar[type[ModelOutput]] = NextSentencePredictorOutput
    reads: ClassVar[tuple[str, ...]] = ("pooler_output",)

    def __init__(self, hidden_size: int):
        super().__init__()
        self.relation = nn.Linear(hidden_size, 2)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(config.hidden_size)

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, D) -> (B, 2)"""
        return self.relation(pooled)

    def loss_sum(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy, an fp32 scalar; labels (B) are 0, 1, or -100 for none."""
        return class_loss(self(pooled), labels)[0]
