"""The XLM-RoBERTa architecture: BERT's, with positions that padding does not take up. No heads.

Source: Unsupervised Cross-lingual Representation Learning at Scale (Conneau et al., 2019).
Shapes: B batch, T tokens, N packed tokens, D hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder_backbone import EncoderBackbone
from models.layers.embeddings import counted_positions, require_positions
from models.xlm_roberta.config import XLMRobertaConfig


class XLMRobertaBackbone(EncoderBackbone):
    """The backbone, whose positions count from ``pad_token_id`` + 1; padding stays at ``pad_token_id``."""

    def __init__(
        self, config: XLMRobertaConfig, *, add_pooling_layer: bool = True, attn_implementation: str = "sdpa"
    ):
        super().__init__(
            config,
            add_pooling_layer=add_pooling_layer,
            attn_implementation=attn_implementation,
            position_padding_idx=config.pad_token_id,
        )

    def positions(
        self, input_ids: Tensor | None, embedded: Tensor, start: int, cu_seqlens: Tensor | None
    ) -> Tensor:
        """(B, T), or (1, N) anew in each packed document; among embeddings padding cannot be told: (1, T)."""
        padding, length = self.config.pad_token_id, embedded.shape[1]
        if input_ids is None:
            positions = counted_positions(length, start, cu_seqlens, embedded.device) + padding + 1
        else:
            positions = _token_positions(input_ids, padding, start, cu_seqlens)
        require_positions(positions, padding + start + length, self.config.max_position_embeddings)
        return positions


def _token_positions(input_ids: Tensor, padding: int, start: int, cu_seqlens: Tensor | None) -> Tensor:
    real = input_ids != padding
    count = real.cumsum(dim=1)
    if cu_seqlens is not None:
        borders = cu_seqlens.long()
        document = torch.bucketize(torch.arange(count.shape[1], device=count.device), borders[1:], right=True)
        count = count - F.pad(count[0], (1, 0))[borders[:-1]][document]
    return (count + start) * real + padding
