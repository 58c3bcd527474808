"""The multiple choice head: one score for each of a question's choices, each a text of its own.

Shapes: B questions, C choices of each, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.classification import class_loss
from models.heads.head import ScoringHead
from models.outputs import ModelOutput, MultipleChoiceModelOutput

# The dimensions of what the backbone takes row by row, and is given choice by choice.
_ROWS = {"input_ids": 2, "attention_mask": 2, "token_type_ids": 2, "position_ids": 2, "inputs_embeds": 3}


class MultipleChoiceHead(ScoringHead):
    """Dropout and a linear layer from a choice's pooled vector to its score."""

    name: ClassVar[str] = "multiple_choice"
    output: ClassVar[type[ModelOutput]] = MultipleChoiceModelOutput
    reads: ClassVar[tuple[str, ...]] = ("pooler_output",)

    def __init__(self, hidden_size: int, *, dropout: float = 0.0):
        super().__init__()
        self.classifier = nn.Linear(hidden_size, 1)
        self.dropout = dropout

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(config.hidden_size, dropout=config.head_dropout)

    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs (B, C, T) as rows (B * C, T); ``ValueError`` for ids or embeddings without choices."""
        ids = inputs.get("input_ids", inputs.get("inputs_embeds"))
        expected = _ROWS["input_ids" if "input_ids" in inputs else "inputs_embeds"] + 1
        if ids is not None and ids.ndim != expected:
            raise ValueError(
                f"multiple choice takes rows of choices (batch, choices, tokens), got {tuple(ids.shape)}"
            )
        rows = {name for name, ndim in _ROWS.items() if name in inputs and inputs[name].ndim == ndim + 1}
        return {name: value.flatten(0, 1) if name in rows else value for name, value in inputs.items()}

    def forward(self, pooled: Tensor, choices: int) -> Tensor:
        """(B * C, D) -> (B, C), with C the number of ``choices``."""
        return self.classifier(F.dropout(pooled, self.dropout, self.training)).view(-1, choices)

    def loss_sum(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy, an fp32 scalar; labels (B) are the right choices, -100 for none."""
        return class_loss(self(pooled, len(pooled) // len(labels)), labels)[0]

    def scores(self, backbone: ModelOutput, inputs: Mapping[str, Any]) -> Tensor:
        """(B, C), of as many choices as the ``inputs`` have."""
        given = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
        return self(backbone.pooler_output, given.shape[1])
