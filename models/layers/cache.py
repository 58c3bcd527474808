"""Keys and values of the tokens seen so far, for decoding one token at a time."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor


class DynamicCache:
    """Keys and values of each layer, (B, K, T, C), growing along the tokens.

    ``windows``: how many tokens back each layer looks, itself included, None for all of them; of a layer with
    a window only what later tokens can still see is kept. Without ``windows`` everything is kept.
    Shapes: B batch, K key/value heads, T tokens, C channels of a head. Padding on the left is the caller's
    affair: the attention mask given with each call covers the cached tokens too.
    """

    def __init__(self, windows: Sequence[int | None] = ()) -> None:
        self.windows = tuple(windows)
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._seen: list[int] = []

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one layer's new keys and values; returns them behind those that it still held."""
        new = keys.shape[2]
        if layer == len(self._seen):
            self._seen.append(new)
            self.keys.append(keys)
            self.values.append(values)
        else:
            self._seen[layer] += new
            keys = torch.cat((self.keys[layer], keys), dim=2)
            values = torch.cat((self.values[layer], values), dim=2)
        kept = slice(max(0, keys.shape[2] - self._limit(layer)), None)
        self.keys[layer], self.values[layer] = keys[:, :, kept], values[:, :, kept]
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """How many tokens a layer has seen, padding included, whether it still holds them or not."""
        return self._seen[layer] if layer < len(self._seen) else 0

    def held(self, window: int | None) -> int:
        """How many of the tokens seen so far a layer with this window holds."""
        seen = self.get_seq_length()
        return seen if window is None or not self.windows else min(seen, window - 1)

    def _limit(self, layer: int) -> int:
        window = self.windows[layer] if self.windows else None
        return sys.maxsize if window is None else window - 1


def keeps_cache(given: object, use_cache: bool | None, *, by_default: bool, recomputes: bool) -> bool:
    """Whether keys and values are kept: if a cache is given, else as ``use_cache`` says, or by default.

    ``ValueError`` if the model ``recomputes`` its layers in the backward pass, which would fill it twice.
    """
    keeps = given is not None or (by_default if use_cache is None else use_cache)
    if keeps and recomputes:
        raise ValueError(
            "gradient checkpointing computes layers twice and cannot fill a cache: use_cache=False"
        )
    return keeps


class EncoderDecoderCache:
    """The two caches of a decoder that looks at an encoder: of its own tokens, and of the encoder's.

    The second is filled once, with the keys and values of all encoded tokens.
    """

    def __init__(
        self,
        self_attention_cache: DynamicCache | None = None,
        cross_attention_cache: DynamicCache | None = None,
    ) -> None:
        self.self_attention_cache = self_attention_cache or DynamicCache()
        self.cross_attention_cache = cross_attention_cache or DynamicCache()

    def get_seq_length(self, layer: int = 0) -> int:
        """How many of its own tokens the decoder has seen, padding included."""
        return self.self_attention_cache.get_seq_length(layer)
