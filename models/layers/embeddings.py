"""Embeddings of words and positions, and those of encoders: with token types, summed and normalized.

Shapes: B batch, T tokens, N packed tokens, E embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderEmbeddings(nn.Module):
    """Sum of word, position and token type embeddings, layer-normalized, with dropout.

    Module names are those of BERT's checkpoints. ``padding_idx`` is the row of padding, which begins as zero;
    ``position_padding_idx`` that of padding's position, if it has one of its own.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        max_positions: int,
        token_types: int,
        *,
        padding_idx: int | None,
        position_padding_idx: int | None = None,
        eps: float,
        dropout: float,
    ):
        super().__init__()
        self.word_embeddings = embedding(vocab_size, width, padding_idx)
        self.position_embeddings = embedding(max_positions, width, position_padding_idx)
        self.token_type_embeddings = embedding(token_types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = dropout

    @property
    def longest(self) -> int:
        """How many tokens a text may have, each of them with a position of its own."""
        rows, padding = self.position_embeddings.num_embeddings, self.position_embeddings.padding_idx
        return rows if padding is None else rows - padding - 1

    def forward(self, words: Tensor, position_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embedded words (B, T, E), positions (B or 1, T) and types (B, T; None for type 0) -> (B, T, E)."""
        types = self.token_type_embeddings.weight[0]
        if token_type_ids is not None:
            types = self.token_type_embeddings(token_type_ids)
        x = self.LayerNorm(words + types + self.position_embeddings(position_ids))
        return F.dropout(x, self.dropout, self.training)


def embedding(rows: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    """An embedding whose weight is not drawn yet: on the meta device that would load torch's compiler."""
    return nn.Embedding(rows, width, padding_idx, _weight=torch.empty(rows, width))


def embedded(table: nn.Embedding, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    """The embeddings (B, T, E) of ids (B, T), or those given in their place; ``ValueError`` unless one is."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give either input_ids or inputs_embeds")
    return table(input_ids) if inputs_embeds is None else inputs_embeds


def counted_positions(length: int, start: int, cu_seqlens: Tensor | None, device: torch.device) -> Tensor:
    """Positions (1, T) that count from ``start``, or (1, N) from 0 in each packed document."""
    positions = torch.arange(start, start + length, device=device)
    if cu_seqlens is not None:
        borders = cu_seqlens.to(positions.dtype)
        positions = positions - borders[torch.bucketize(positions, borders[1:], right=True)]
    return positions[None]


def require_positions(position_ids: Tensor, highest: int, rows: int) -> None:
    """``ValueError`` for positions beyond the ``rows`` of their embedding, which a GPU would not name.

    ``highest``: what none of them exceeds. Only where that is too high are they looked at, for that waits for
    the device.
    """
    if highest >= rows and (found := int(position_ids.max())) >= rows:
        raise ValueError(
            f"input_ids: a text reaches position {found}, but max_position_embeddings is {rows}; "
            "cut it, or train with more positions"
        )


def first_tokens(hidden: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D), or of documents packed into one row (1, N, D) -> (documents, D)."""
    return hidden[:, 0] if cu_seqlens is None else hidden[0, cu_seqlens[:-1].long()]


class Pooler(nn.Module):
    """A sequence's vector: the first token's hidden state through a linear layer and tanh."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, D), or (1, N, D) -> (documents, D)."""
        return torch.tanh(self.dense(first_tokens(hidden, cu_seqlens)))
