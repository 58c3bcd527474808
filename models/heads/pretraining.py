"""The pretraining heads of encoders: masked words, and how two pieces of text belong together.

Sources: BERT (Devlin et al., 2019), section 3.1, where the second piece follows the first or is any other;
ALBERT (Lan et al., 2020), section 3.1, where it follows or the two are swapped.
Shapes: B batch (or packed documents), T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.heads.classification import class_loss
from models.heads.head import Head, mean_or_share
from models.heads.masked_lm import MaskedLMHead
from models.outputs import AlbertForPreTrainingOutput, BertForPreTrainingOutput, ModelOutput, passed_on


class PretrainingHead(Head):
    """A masked-word head on the tokens, and a linear layer from the pooled vector to two scores."""

    reads: ClassVar[tuple[str, ...]] = ("last_hidden_state", "pooler_output")

    def __init__(self, predictions: MaskedLMHead, hidden_size: int, *, dropout: float = 0.0):
        super().__init__()
        self.predictions = predictions
        self.relation = nn.Linear(hidden_size, 2)
        self.dropout = dropout

    def tie(self, embeddings: nn.Embedding) -> None:
        """Share the weight of the word embeddings."""
        self.predictions.tie(embeddings)

    def forward(self, hidden: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B, D) -> scores of words (B, T, V) and of the pair (B, 2)."""
        return self.predictions(hidden), self._related(pooled)

    def loss_sums(
        self, hidden: Tensor, pooled: Tensor, labels: Tensor, pair_labels: Tensor, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The words' summed loss and the pairs', two fp32 scalars, each to be divided by its own count.

        ``labels`` (B, T) and ``pair_labels`` (B) are -100 where nothing is asked for. ``smoothing`` of each
        word's probability is spread over the whole vocabulary.
        """
        words = self.predictions.nll(hidden, labels, smoothing)
        return words, class_loss(self._related(pooled), pair_labels)[0]

    def _related(self, pooled: Tensor) -> Tensor:
        return self.relation(F.dropout(pooled, self.dropout, self.training))

    def _scores_and_loss(
        self,
        backbone: ModelOutput,
        labels: Tensor | None,
        pair_labels: Tensor | None,
        num_items_in_batch: Tensor | int | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scores of words and pairs, and if both are labelled the loss.

        It is the sum of the two means; with ``num_items_in_batch``, the words of a whole step, it is this
        batch's share of them: the pairs' mean counts as much as the batch has words.
        """
        words, pairs = self(backbone.last_hidden_state, backbone.pooler_output)
        if labels is None or pair_labels is None:
            return words, pairs, None
        total, count = class_loss(words, labels)
        pair_total, pair_count = class_loss(pairs, pair_labels)
        loss, pairs_mean = mean_or_share(total, count, num_items_in_batch), pair_total / pair_count
        if num_items_in_batch is not None:
            # Of a batch without a labelled pair, which a whole step may well have, the share is nothing.
            pairs_mean = pair_total / pair_count.clamp(min=1) * (count / num_items_in_batch)
        return words, pairs, loss + pairs_mean


class NextSentencePretrainingHead(PretrainingHead):
    """BERT's: label 0 says that the second text follows the first, 1 that it is any other."""

    name: ClassVar[str] = "next_sentence_pretraining"
    inputs: ClassVar[tuple[str, ...]] = ("labels", "next_sentence_label", "num_items_in_batch")

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(MaskedLMHead.from_config(config), config.hidden_size)

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> BertForPreTrainingOutput:
        """Scores of words and pairs, and the loss if ``labels`` (B, T) and the pairs' (B) are given."""
        words, pairs, loss = self._scores_and_loss(backbone, labels, next_sentence_label, num_items_in_batch)
        extras = passed_on(backbone, BertForPreTrainingOutput)
        return BertForPreTrainingOutput(
            loss=loss, prediction_logits=words, seq_relationship_logits=pairs, **extras
        )


class SentenceOrderPretrainingHead(PretrainingHead):
    """ALBERT's: label 0 says that the two texts are in their order, 1 that they are swapped."""

    name: ClassVar[str] = "sentence_order_pretraining"
    inputs: ClassVar[tuple[str, ...]] = ("labels", "sentence_order_label", "num_items_in_batch")

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The head for a family's configuration."""
        return cls(MaskedLMHead.from_config(config), config.hidden_size, dropout=config.head_dropout)

    def outputs(
        self,
        backbone: ModelOutput,
        inputs: Mapping[str, Any],
        *,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> AlbertForPreTrainingOutput:
        """Scores of words and pairs, and the loss if ``labels`` (B, T) and the pairs' (B) are given."""
        words, pairs, loss = self._scores_and_loss(backbone, labels, sentence_order_label, num_items_in_batch)
        extras = passed_on(backbone, AlbertForPreTrainingOutput)
        return AlbertForPreTrainingOutput(loss=loss, prediction_logits=words, sop_logits=pairs, **extras)
