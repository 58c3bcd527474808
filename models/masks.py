"""Attention masks as numbers to add to attention scores, for code that is written for those.

This library's own layers take the mask of tokens and nothing else. Shapes: B batch, T tokens, S tokens with
the cached ones. Source of names and behaviour: reference page main_classes/model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conf.logging import get_logger
from models.config import ModelConfig

logger = get_logger(__name__)


class Masks(nn.Module):
    """What a ``TaskModel`` does with masks."""

    config: ModelConfig
    _warned_of_padding: bool = False

    def get_extended_attention_mask(
        self, attention_mask: Tensor, input_shape: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Tensor:
        """(B, S), or (B, T, S), which is 1 at what is seen -> (B, 1, 1 or T, S): 0 there and the least else.

        Of a configuration with ``is_decoder`` no token sees a later one; ``input_shape`` is (B, T).
        """
        if attention_mask.dim() == 2 and getattr(self.config, "is_decoder", False):
            keys = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            queries = keys[attention_mask.shape[1] - input_shape[1] :, None]
            attention_mask = (keys <= queries) * attention_mask[:, None]
        return self._added(attention_mask, dtype)

    def invert_attention_mask(self, encoder_attention_mask: Tensor) -> Tensor:
        """(B, S) or (B, T, S), 1 at what is seen -> (B, 1, 1 or T, S): 0 there and the least else."""
        return self._added(encoder_attention_mask, None)

    def _added(self, mask: Tensor, dtype: torch.dtype | None) -> Tensor:
        if mask.dim() not in (2, 3):
            raise ValueError(f"attention_mask: (B, S) or (B, T, S) is wanted, got {tuple(mask.shape)}")
        dtype = self.dtype if dtype is None else dtype
        mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min

    def warn_if_padding_and_no_attention_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """A warning, once, where ids (B, T) begin or end with padding and no mask says so."""
        pad = getattr(self.config, "pad_token_id", None)
        if attention_mask is not None or pad is None or self._warned_of_padding:
            return
        if bool((input_ids[:, [0, -1]] == pad).any()):
            self._warned_of_padding = True
            names = ("bos_token_id", "eos_token_id", "sep_token_id")
            same = [name for name in names if getattr(self.config, name, None) == pad]
            unless = f", unless it is {' and '.join(same)} here, which has the same id" if same else ""
            logger.warning(
                "attention_mask: there is padding (%s) in input_ids, and it is attended to%s; give a mask "
                "that is 0 there.",
                pad,
                unless,
            )
