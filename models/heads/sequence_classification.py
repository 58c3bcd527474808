"""The sequence classification head of decoders: scores from the hidden state of the last token.

Shapes: B batch (or packed documents), T tokens, D hidden, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import ConfigError
from models.config import ModelConfig, ProblemType
from models.heads.classification import sequence_loss
from models.heads.head import ScoringHead
from models.outputs import ModelOutput, SequenceClassifierOutputWithPast


class SequenceClassificationHead(ScoringHead):
    """A bias-free linear layer at the last token that is no padding, whichever side is padded.

    ``models.heads.classification.sequence_loss`` says which loss is taken.
    """

    name: ClassVar[str] = "sequence_classification"
    output: ClassVar[type[ModelOutput]] = SequenceClassifierOutputWithPast

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        *,
        pad_token_id: int | None = None,
        problem_type: ProblemType | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_labels, hidden_size))
        self.pad_token_id, self.problem_type = pad_token_id, problem_type

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(
            config.hidden_size,
            config.num_labels,
            pad_token_id=config.pad_token_id,
            problem_type=config.problem_type,
        )

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw the weight from normal(0, std)."""
        nn.init.normal_(self.weight, std=std, generator=generator)

    def forward(
        self,
        hidden: Tensor,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, L); packed documents in one row give one line of scores each.

        ``ConfigError`` for several rows without a ``pad_token_id`` to tell tokens from padding.
        """
        if cu_seqlens is not None:
            pooled = hidden[0, cu_seqlens[1:].long() - 1]
        else:
            rows = torch.arange(hidden.shape[0], device=hidden.device)
            pooled = hidden[rows, self._last_tokens(hidden, input_ids, attention_mask)]
        return F.linear(pooled, self.weight)

    def _last_tokens(
        self, hidden: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor | int:
        """The position of each row's last token that is no padding."""
        if self.pad_token_id is None and hidden.shape[0] > 1:
            raise ConfigError(
                "pad_token_id: must be set in the model's configuration to classify several rows at once"
            )
        if self.pad_token_id is not None and input_ids is not None:
            tokens = input_ids != self.pad_token_id
        elif attention_mask is not None:
            tokens = attention_mask[:, -hidden.shape[1] :].bool()
        else:
            return -1
        return (torch.arange(hidden.shape[1], device=hidden.device) * tokens).argmax(dim=-1)

    def loss_sum(self, hidden: Tensor, labels: Tensor, **places: Tensor | None) -> Tensor:
        """The sequences' summed loss, an fp32 scalar; ``places`` as in ``forward``."""
        return self.summed(self(hidden, **places), labels)[0]

    def scores(self, backbone: ModelOutput, inputs: Mapping[str, Any]) -> Tensor:
        """Those of each sequence, whose last token the ``inputs`` tell."""
        places = {name: inputs.get(name) for name in ("input_ids", "attention_mask", "cu_seqlens")}
        return self(backbone.last_hidden_state, **places)

    def summed(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The loss of the kind of problem, and of how many items."""
        return sequence_loss(scores, labels, self.problem_type)
