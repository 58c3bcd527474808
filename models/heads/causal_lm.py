"""The next-token head: one linear layer from hidden states to the vocabulary.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.chunked import IGNORED, linear_log_probs, linear_nll
from models.heads.classification import class_loss
from models.heads.head import Head, mean_or_share
from models.outputs import (
    CausalLMOutputWithPast,
    ModelOutput,
    MoeCausalLMOutputWithPast,
    MoeModelOutputWithPast,
    passed_on,
)


class NextTokenHead(Head):
    """A head that scores what stands at the next token."""

    inputs: ClassVar[tuple[str, ...]] = ("labels", "num_items_in_batch", "logits_to_keep")

    @abstractmethod
    def output_of(self, backbone: ModelOutput) -> type[ModelOutput]:
        """The type of what is returned, for a backbone that returned this."""

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
    ) -> ModelOutput:
        """Logits, and with labels (B, T) the loss: each token against the next one's label.

        The loss is the mean over supervised tokens, or their sum over ``num_items_in_batch``.
        """
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError(
                "logits_to_keep: a loss needs the logits of all positions, leave it out with labels"
            )
        logits, loss = self(backbone.last_hidden_state, logits_to_keep), None
        if labels is not None:
            targets = shift_labels(labels, inputs.get("cu_seqlens"))
            loss = mean_or_share(*class_loss(logits, targets), num_items_in_batch)
        made = self.output_of(backbone)
        return made(loss=loss, logits=logits, **passed_on(backbone, made))


class CausalLMHead(NextTokenHead):
    """Scores of every word at every token, and losses that never hold them all at once."""

    name: ClassVar[str] = "causal_lm"

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.tied = False

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(config.hidden_size, config.vocab_size)

    def tie(self, embeddings: nn.Embedding) -> None:
        """Share the weight of the token embeddings."""
        self.weight, self.tied = embeddings.weight, True

    def init_weights(self, std: float, generator: torch.Generator | None = None) -> None:
        """Draw the weight from normal(0, std); a shared one is the embeddings' to draw."""
        if not self.tied:
            nn.init.normal_(self.weight, std=std, generator=generator)

    def forward(self, hidden: Tensor, logits_to_keep: int | Tensor = 0) -> Tensor:
        """(B, T, D) -> (B, T, V), of the last ``logits_to_keep`` positions only, or of the ones it lists."""
        return F.linear(kept(hidden, logits_to_keep), self.weight)

    def nll(self, hidden: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        """Summed negative log-likelihood, an fp32 scalar; labels (B, T) stand where they are predicted.

        ``smoothing`` of each target's probability is spread over the whole vocabulary.
        """
        return linear_nll(hidden, self.weight, labels, smoothing=smoothing)

    def log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Each label's log-probability (B, T) in fp32; labels stand where they are predicted, 0 at -100."""
        return linear_log_probs(hidden, self.weight, labels)

    def output_of(self, backbone: ModelOutput) -> type[ModelOutput]:
        """With the scores of routers, where the backbone has experts."""
        mixed = isinstance(backbone, MoeModelOutputWithPast)
        return MoeCausalLMOutputWithPast if mixed else CausalLMOutputWithPast


def kept(hidden: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Of hidden states (B, T, D) the last ``logits_to_keep``, all for 0, or the positions that it lists."""
    keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    return hidden[:, keep]


def shift_labels(labels: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """Labels (B, T) of tokens, moved to where those tokens are predicted: one to the left.

    The last position of a row, and of each packed document, predicts nothing: -100.
    """
    shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if cu_seqlens is not None:
        shifted[:, cu_seqlens[1:].long() - 1] = IGNORED
    return shifted
