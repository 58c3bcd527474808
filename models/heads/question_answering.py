"""The question answering head: at which tokens of a text the answer starts and ends.

Source: BERT (Devlin et al., 2019), section 4.2. Shapes: B batch (or packed documents), T tokens, N packed
tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from models.config import ModelConfig
from models.heads.chunked import IGNORED
from models.heads.classification import class_loss
from models.heads.head import Head, mean_or_share
from models.outputs import ModelOutput, QuestionAnsweringModelOutput, passed_on


class QuestionAnsweringHead(Head):
    """A linear layer to two scores of each token: that the answer starts there, and that it ends there.

    Positions count from a text's first token. One outside of the text is not counted in the loss.
    """

    name: ClassVar[str] = "question_answering"
    inputs: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions", "num_items_in_batch")

    def __init__(self, hidden_size: int):
        super().__init__()
        self.classifier = nn.Linear(hidden_size, 2)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(config.hidden_size)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T) of starts and (B, T) of ends."""
        start, end = self.classifier(hidden).unbind(dim=-1)
        return start.contiguous(), end.contiguous()

    def loss_sum(
        self,
        hidden: Tensor,
        start_positions: Tensor,
        end_positions: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """Half the summed cross-entropy of starts and of ends, positions (B) each; an fp32 scalar."""
        start, end = self(hidden)
        starts = _position_loss(start, start_positions, cu_seqlens)[0]
        return (starts + _position_loss(end, end_positions, cu_seqlens)[0]) / 2

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Scores of each token, and the loss if both positions are given.

        The loss is half the starts' mean and half the ends', or half their sums over ``num_items_in_batch``.
        """
        (start, end), loss = self(backbone.last_hidden_state), None
        if start_positions is not None and end_positions is not None:
            borders = inputs.get("cu_seqlens")
            pairs = ((start, start_positions), (end, end_positions))
            means = [mean_or_share(*_position_loss(*pair, borders), num_items_in_batch) for pair in pairs]
            loss = (means[0] + means[1]) / 2
        extras = passed_on(backbone, QuestionAnsweringModelOutput)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end, **extras)


def _position_loss(scores: Tensor, positions: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of each text's tokens against a position, and how many positions count.

    scores (B, T), or (1, N) packed; positions (B) or (B, 1). As upstream does, one before the text counts as
    its first token and one behind it not at all.
    """
    lengths: Tensor | int = scores.shape[1]
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff()
        scores = pad_sequence(scores[0].split(lengths.tolist()), batch_first=True, padding_value=-torch.inf)
    positions = positions.view(-1).clamp(min=0)
    return class_loss(scores, positions.masked_fill(positions >= lengths, IGNORED))
