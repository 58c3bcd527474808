"""What decoders with rotary positions share: the way from tokens through a family's layers to hidden states.

Shapes: B batch, T tokens, S tokens with the cached ones, N packed tokens, D hidden, H heads, C channels a
head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.layers.attention import Visibility, require_weights
from models.layers.cache import DynamicCache, keeps_cache
from models.layers.checkpointing import checkpointed
from models.layers.embeddings import counted_positions, embedded, embedding
from models.layers.rotary import RotaryEmbedding
from models.options import CheckpointingOptions
from models.outputs import BaseModelOutputWithPast

Rotation = tuple[Tensor, Tensor]  # cosines and sines (B or 1, 1, T, C)


class DecoderLayer(nn.Module, ABC):
    """One layer of a decoder: a family's own ``_layer``, computed again in the backward pass if so asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing: CheckpointingOptions | None = None

    def forward(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and the attention weights (B, H, T, S), if the backend gives them."""
        options = self.gradient_checkpointing
        if options is not None and self.training and torch.is_grad_enabled():
            # Inside the layer's own forward, so that sharding hooks around the layer run once.
            return checkpointed(options, self._layer, x, rotation, visibility, cache)
        return self._layer(x, rotation, visibility, cache)

    @abstractmethod
    def _layer(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """What ``forward`` gives, as a family computes it."""


class Decoder(nn.Module):
    """A backbone: token embeddings, ``layers``, a final ``norm``. Module names are those of checkpoints.

    ``rotary`` gives the layers the positions to turn queries and keys by. ``windows``: how many tokens back
    each layer looks, itself included, None for all; without it every layer looks at all. ``use_cache``:
    whether keys and values are kept by default in evaluation. The weights are undefined until
    ``models.layers.initialization.draw_weights`` or a checkpoint sets them.
    """

    def __init__(
        self,
        layers: Iterable[DecoderLayer],
        norm: nn.Module,
        rotary: RotaryEmbedding,
        *,
        vocab_size: int,
        hidden_size: int,
        pad_token_id: int | None,
        use_cache: bool,
        attn_implementation: str,
        windows: Sequence[int | None] = (),
    ):
        super().__init__()
        self.use_cache, self.attn_implementation = use_cache, attn_implementation
        self.embed_tokens = embedding(vocab_size, hidden_size, pad_token_id)  # the padding row stays zero
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.rotary_emb = rotary
        self.windows = tuple(windows)

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings, which a head may share."""
        return self.embed_tokens

    def set_gradient_checkpointing(self, options: CheckpointingOptions | None) -> None:
        """Recompute each layer in the backward pass as ``options`` say, or with None keep its activations."""
        for layer in self.layers:
            layer.gradient_checkpointing = options

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cu_seqlens: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPast:
        """Hidden states of ``input_ids`` (B, T) or ``inputs_embeds`` (B, T, D).

        ``attention_mask`` (B, S) is 1 at tokens and 0 at padding on either side, cached tokens included.
        ``cu_seqlens`` (documents + 1) packs documents into the one row of the batch; they never see each
        other. ``position_ids`` (B or 1, T) count from 0 in each document when not given. With
        ``past_key_values`` give only the new tokens, which are added to it. ``use_cache``, whether a cache
        is made, defaults to the configuration's in evaluation and to no in training.
        """
        fields, _ = self._through_layers(
            *(input_ids, inputs_embeds, position_ids, attention_mask, cu_seqlens, past_key_values, use_cache),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        return BaseModelOutputWithPast(**fields)

    def _through_layers(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        past_key_values: DynamicCache | None,
        use_cache: bool | None,
        *,
        output_hidden_states: bool,
        output_attentions: bool,
    ) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        """The output's fields, and what else than hidden states and attention weights each layer gives."""
        require_weights(output_attentions, self.attn_implementation)
        x = self._embedded(input_ids, inputs_embeds)
        cache = self._cache(past_key_values, use_cache, packed=cu_seqlens is not None)
        visibilities = self._visibilities(x, attention_mask, cu_seqlens, cache)
        rotation = self._rotation(x, position_ids, cu_seqlens, cache)
        hidden_states, attentions, others = [x], [], []
        for layer, visibility in zip(self.layers, visibilities, strict=True):
            x, weights, *other = layer(x, rotation, visibility, cache)
            others.append(tuple(other))
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(weights)
        x = self.norm(x)
        fields = {
            "last_hidden_state": x,
            "past_key_values": cache,
            "hidden_states": (*hidden_states[:-1], x) if output_hidden_states else None,
            "attentions": tuple(attentions) if output_attentions else None,
        }
        return fields, others

    def _embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """What the first layer gets (B, T, D)."""
        return embedded(self.embed_tokens, input_ids, inputs_embeds)

    def _cache(
        self, given: DynamicCache | None, use_cache: bool | None, *, packed: bool
    ) -> DynamicCache | None:
        """Where keys and values are kept, or None."""
        by_default = self.use_cache and not self.training and not packed
        recomputes = self.training and self.layers[0].gradient_checkpointing is not None
        if not keeps_cache(given, use_cache, by_default=by_default, recomputes=recomputes):
            return None
        return DynamicCache(self.windows) if given is None else given

    def _visibilities(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        cache: DynamicCache | None,
    ) -> list[Visibility]:
        """Each layer's; layers with the same window share one, and with it its masks."""
        cached = cache.get_seq_length() if cache else 0
        shared = {None: Visibility.of(x, attention_mask, cu_seqlens, cached)}
        for window in set(self.windows) - {None}:
            held = cache.held(window) if cache else 0  # the last ones of the cached tokens
            mask = None if attention_mask is None else attention_mask[:, cached - held :]
            shared[window] = Visibility.of(x, mask, cu_seqlens, held, window=window)
        return [shared[window] for window in self.windows or (None,) * len(self.layers)]

    def _rotation(
        self,
        x: Tensor,
        position_ids: Tensor | None,
        cu_seqlens: Tensor | None,
        cache: DynamicCache | None,
    ) -> Rotation:
        """In the type of ``x``."""
        tokens, lengths = x.shape[1], None
        if cu_seqlens is not None:
            lengths = cu_seqlens.diff().repeat_interleave(cu_seqlens.diff(), output_size=tokens)[None]
        if position_ids is None:
            cached = cache.get_seq_length() if cache else 0
            position_ids = counted_positions(tokens, cached, cu_seqlens, x.device)
        cos, sin = self.rotary_emb(position_ids, lengths)
        return cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
