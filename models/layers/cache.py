"""Keys and values of the tokens seen so far, for decoding one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class DynamicCache:
    """Keys and values of each layer, (B, K, T, C), growing along the tokens.

    Shapes: B batch, K key/value heads, T tokens, C channels of a head. Padding on the left is the caller's
    affair: the attention mask given with each call covers the cached tokens too.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; returns all of them."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat((self.keys[layer], keys), dim=2)
            self.values[layer] = torch.cat((self.values[layer], values), dim=2)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self) -> int:
        """How many tokens are cached, padding included."""
        return self.keys[0].shape[2] if self.keys else 0
