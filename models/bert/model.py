"""The BERT architecture: word, position and type embeddings, post-norm layers, a pooler. No heads.

Source: BERT (Devlin et al., 2018).
Shapes: B batch, T tokens, N packed tokens, D hidden.
"""

from __future__ import annotations

from torch import Tensor

from models.encoder_backbone import EncoderBackbone
from models.layers.embeddings import counted_positions, require_positions


class BertBackbone(EncoderBackbone):
    """The backbone, whose positions count from 0, padding included."""

    def positions(
        self, input_ids: Tensor | None, embedded: Tensor, start: int, cu_seqlens: Tensor | None
    ) -> Tensor:
        """(1, T) from ``start``, or (1, N) from 0 in each packed document."""
        length = embedded.shape[1]
        positions = counted_positions(length, start, cu_seqlens, embedded.device)
        require_positions(positions, start + length - 1, self.config.max_position_embeddings)
        return positions
