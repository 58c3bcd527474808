"""The post-norm transformer of BERT and its descendants: a stack of layers that also serves as a decoder.

Modules carry the names of BERT's checkpoints. Sources: Attention Is All You Need (Vaswani et al., 2017), BERT
(Devlin et al., 2018).
Shapes: B batch, T tokens, S keys (the tokens with cached ones, or an encoder's tokens), D hidden, H heads,
C channels a head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import ConfigError
from models.layers.attention import Visibility, attention_named, require_weights
from models.layers.cache import DynamicCache, EncoderDecoderCache, keeps_cache
from models.layers.checkpointing import checkpointed
from models.layers.mlp import ACTIVATIONS
from models.options import CheckpointingOptions
from models.outputs import BaseModelOutputWithPastAndCrossAttentions, Cache


class QueryKeyValue(nn.Module):
    """Attention of tokens on one another, or on an encoder's tokens, without the projection of its result."""

    def __init__(
        self, hidden_size: int, num_heads: int, dropout: float, layer: int, attn_implementation: str
    ):
        super().__init__()
        self.layer, self.head_dim = layer, hidden_size // num_heads
        self.scale, self.dropout = self.head_dim**-0.5, dropout
        self.attend = attention_named(attn_implementation)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, visibility: Visibility, cache: DynamicCache | None, encoded: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, S)."""
        q = self._by_head(self.query(x))
        k, v = self._keys_and_values(x, cache, encoded)
        dropout = self.dropout if self.training else 0.0
        out, weights = self.attend(q, k, v, visibility, scale=self.scale, dropout=dropout)
        return out.transpose(1, 2).flatten(2), weights

    def _keys_and_values(
        self, x: Tensor, cache: DynamicCache | None, encoded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, H, S, C) each; those of an encoder's tokens are computed once and then taken from the cache."""
        if encoded is not None and cache is not None and cache.get_seq_length(self.layer):
            return cache.keys[self.layer], cache.values[self.layer]
        source = x if encoded is None else encoded
        k, v = self._by_head(self.key(source)), self._by_head(self.value(source))
        return (k, v) if cache is None else cache.update(self.layer, k, v)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class AddedBack(nn.Module):
    """A linear layer with dropout whose result is added to a residual and normalized."""

    def __init__(self, width: int, hidden_size: int, eps: float, dropout: float):
        super().__init__()
        self.dense = nn.Linear(width, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=eps)
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, T, width), (B, T, D) -> (B, T, D)"""
        return self.LayerNorm(F.dropout(self.dense(x), self.dropout, self.training) + residual)


class Attention(nn.Module):
    """Attention, projected, added back and normalized."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        eps: float,
        dropout: float,
        attention_dropout: float,
        layer: int,
        attn_implementation: str,
    ):
        super().__init__()
        self.self = QueryKeyValue(hidden_size, num_heads, attention_dropout, layer, attn_implementation)
        self.output = AddedBack(hidden_size, hidden_size, eps, dropout)

    def forward(
        self,
        x: Tensor,
        visibility: Visibility,
        cache: DynamicCache | None,
        encoded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, S)."""
        attended, weights = self.self(x, visibility, cache, encoded)
        return self.output(attended, x), weights


class Intermediate(nn.Module):
    """The first half of a feed-forward block."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str):
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., intermediate size)"""
        return self.activation(self.dense(x))


class EncoderLayer(nn.Module):
    """Attention, with ``cross_attention`` also on an encoder's tokens, and a feed-forward block.

    ``layer`` is its place in the cache. ``chunk_size_feed_forward``: how many tokens the feed-forward block
    takes at a time, 0 for all of them; that changes memory, not numbers.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_heads: int,
        activation: str,
        *,
        eps: float,
        dropout: float,
        attention_dropout: float,
        cross_attention: bool,
        chunk_size_feed_forward: int,
        layer: int,
        attn_implementation: str,
    ):
        super().__init__()
        self.gradient_checkpointing: CheckpointingOptions | None = None
        self.chunk_size = chunk_size_feed_forward
        attention = {
            "eps": eps,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "layer": layer,
            "attn_implementation": attn_implementation,
        }
        self.attention = Attention(hidden_size, num_heads, **attention)
        if cross_attention:
            self.crossattention = Attention(hidden_size, num_heads, **attention)
        self.intermediate = Intermediate(hidden_size, intermediate_size, activation)
        self.output = AddedBack(intermediate_size, hidden_size, eps, dropout)

    def forward(
        self,
        x: Tensor,
        encoded: Tensor | None,
        visibility: Visibility,
        encoded_visibility: Visibility | None,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(B, T, D) -> (B, T, D), and the weights of attention and cross-attention, if there are any."""
        options = self.gradient_checkpointing
        given = (x, encoded, visibility, encoded_visibility, cache)
        if options is not None and self.training and torch.is_grad_enabled():
            # Inside the layer's own forward, so that sharding hooks around the layer run once.
            return checkpointed(options, self._layer, *given)
        return self._layer(*given)

    def _layer(
        self,
        x: Tensor,
        encoded: Tensor | None,
        visibility: Visibility,
        encoded_visibility: Visibility | None,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        own, across = cache, None
        if isinstance(cache, EncoderDecoderCache):
            own, across = cache.self_attention_cache, cache.cross_attention_cache
        x, weights = self.attention(x, visibility, own)
        cross_weights = None
        if encoded is not None:
            x, cross_weights = self.crossattention(x, encoded_visibility, across, encoded)
        return self._feed_forward(x), weights, cross_weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        chunks = x.split(self.chunk_size, dim=1) if self.chunk_size else (x,)
        done = [self.output(self.intermediate(chunk), chunk) for chunk in chunks]
        return torch.cat(done, dim=1) if len(done) > 1 else done[0]


class Encoder(nn.Module):
    """A stack of layers.

    ``causal``: it is a decoder, whose tokens see none after themselves, and which can keep keys and values;
    it does so by default in evaluation if ``use_cache``.
    """

    def __init__(
        self, layers: Iterable[EncoderLayer], *, causal: bool, use_cache: bool, attn_implementation: str
    ):
        super().__init__()
        self.layer = nn.ModuleList(layers)
        self.causal, self.use_cache, self.attn_implementation = causal, use_cache, attn_implementation

    def set_gradient_checkpointing(self, options: CheckpointingOptions | None) -> None:
        """Recompute each layer in the backward pass as ``options`` say, or with None keep its activations."""
        for layer in self.layer:
            layer.gradient_checkpointing = options

    def forward(
        self,
        x: Tensor,
        *,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        encoded: Tensor | None,
        encoder_attention_mask: Tensor | None,
        cache: Cache | None,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """(B, T, D) -> (B, T, D); ``encoded`` (B, S, D) are an encoder's tokens for cross-attention.

        ``ConfigError`` or ``ValueError``, each in one sentence, for inputs that do not go together.
        """
        self._judge(encoded, encoder_attention_mask, cu_seqlens, cache, output_attentions)
        cached = cache.get_seq_length() if cache else 0
        visibility = Visibility.of(x, attention_mask, cu_seqlens, cached, causal=self.causal)
        encoded_visibility = None
        if encoded is not None:
            encoded_visibility = Visibility.of_encoded(x, encoded, encoder_attention_mask)
        hidden_states, attentions, cross_attentions = [x], [], []
        for layer in self.layer:
            x, weights, cross_weights = layer(x, encoded, visibility, encoded_visibility, cache)
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(weights)
                cross_attentions.append(cross_weights)
        looks = output_attentions and encoded is not None
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x,
            past_key_values=cache,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cross_attentions=tuple(cross_attentions) if looks else None,
        )

    def cache(
        self, given: Cache | None, use_cache: bool | None, *, packed: bool, encoded: Tensor | None
    ) -> Cache | None:
        """Where keys and values are kept, or None; an encoder keeps none.

        With an encoder's tokens it has a part for those too; a plain cache that is given is put into one.
        """
        if not self.causal:
            if given is not None:
                raise ConfigError("past_key_values: an encoder keeps no keys and values, set is_decoder")
            return None
        by_default = self.use_cache and not self.training and not packed
        recomputes = self.training and self.layer[0].gradient_checkpointing is not None
        if not keeps_cache(given, use_cache, by_default=by_default, recomputes=recomputes):
            return None
        if encoded is not None and not isinstance(given, EncoderDecoderCache):
            return EncoderDecoderCache(given)
        return DynamicCache() if given is None else given

    def _judge(
        self,
        encoded: Tensor | None,
        encoder_attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        cache: Cache | None,
        output_attentions: bool,
    ) -> None:
        require_weights(output_attentions, self.attn_implementation)
        if encoded is not None and not hasattr(self.layer[0], "crossattention"):
            raise ConfigError(
                "encoder_hidden_states: this model has no cross-attention, set is_decoder and "
                "add_cross_attention"
            )
        if encoded is not None and cu_seqlens is not None:
            raise ValueError(
                "cu_seqlens: packed documents cannot look at encoder_hidden_states, give them as rows"
            )
        if encoded is None and encoder_attention_mask is not None:
            raise ValueError("encoder_attention_mask: masks encoder_hidden_states, which are not given")
        looked = isinstance(cache, EncoderDecoderCache) and cache.cross_attention_cache.get_seq_length()
        if encoded is None and looked:
            raise ValueError(
                "encoder_hidden_states: the tokens in past_key_values looked at an encoder's, "
                "give those with every call"
            )
