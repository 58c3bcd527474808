"""The Llama architecture: token embeddings, pre-norm decoder layers, final norm. No heads.

Modules carry the names of Hugging Face checkpoints. Source: LLaMA and Llama 2 (Touvron et al., 2023).
Shapes: B batch, T tokens, S tokens with the cached ones, D hidden, H heads, K key/value heads, C channels a
head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from models.layers.attention import Visibility, attention_named
from models.layers.cache import DynamicCache
from models.layers.checkpointing import checkpointed
from models.layers.linear import linear
from models.layers.mlp import GatedMLP
from models.layers.norm import RMSNorm
from models.layers.rotary import RotaryEmbedding, rotate_both
from models.llama.config import LlamaConfig
from models.options import CheckpointingOptions
from models.outputs import BaseModelOutputWithPast


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, layer: int, attn_implementation: str):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.scale, self.dropout = config.head_dim**-0.5, config.attention_dropout
        self.attend, self.rotate = attention_named(attn_implementation), rotate_both
        hidden, bias, tp = config.hidden_size, config.attention_bias, config.pretraining_tp
        width, kv_width = (
            config.num_attention_heads * self.head_dim,
            config.num_key_value_heads * self.head_dim,
        )
        self.q_proj = linear(hidden, width, bias, slices=tp, along="out")
        self.k_proj = linear(hidden, kv_width, bias, slices=tp, along="out")
        self.v_proj = linear(hidden, kv_width, bias, slices=tp, along="out")
        self.o_proj = linear(width, hidden, bias, slices=tp, along="in")

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, S)."""
        by_head = (*x.shape[:2], -1, self.head_dim)
        q = self.q_proj(x).view(by_head).transpose(1, 2)  # (B, H, T, C)
        k = self.k_proj(x).view(by_head).transpose(1, 2)  # (B, K, T, C)
        v = self.v_proj(x).view(by_head).transpose(1, 2)
        q, k = self.rotate(q, k, *rotation)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, S, C)
        dropout = self.dropout if self.training else 0.0
        out, weights = self.attend(q, k, v, visibility, scale=self.scale, dropout=dropout)
        return self.o_proj(out.transpose(1, 2).flatten(2)), weights


class LlamaDecoderLayer(nn.Module):
    """Attention and a gated MLP, each on normalized input and added back."""

    def __init__(self, config: LlamaConfig, layer: int, attn_implementation: str):
        super().__init__()
        self.gradient_checkpointing: CheckpointingOptions | None = None
        self.self_attn = LlamaAttention(config, layer, attn_implementation)
        self.mlp = GatedMLP(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            bias=config.mlp_bias,
            slices=config.pretraining_tp,
        )
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and the attention weights, if the backend gives them."""
        options = self.gradient_checkpointing
        if options is not None and self.training and torch.is_grad_enabled():
            # Inside the layer's own forward, so that sharding hooks around the layer run once.
            return checkpointed(options, self._layer, x, rotation, visibility, cache)
        return self._layer(x, rotation, visibility, cache)

    def _layer(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.self_attn(self.input_layernorm(x), rotation, visibility, cache)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), weights


class LlamaModel(nn.Module):
    """The backbone: token ids, or embeddings, to hidden states.

    ``attn_implementation`` is a name in ``models.layers.attention.ATTENTION``. The weights are torch's
    defaults until ``init_weights`` or a checkpoint sets them.
    """

    def __init__(self, config: LlamaConfig, *, attn_implementation: str = "sdpa"):
        super().__init__()
        self.config, self.attn_implementation = config, attn_implementation
        # The padding row begins as zero, and no gradient reaches it from here.
        # Given its weight, torch draws none; on the meta device that drawing would load its whole compiler.
        self.embed_tokens = nn.Embedding(
            *(config.vocab_size, config.hidden_size, config.pad_token_id),
            _weight=torch.empty(config.vocab_size, config.hidden_size),
        )
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, layer, attn_implementation) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(
            config.head_dim, config.max_position_embeddings, config.rope_parameters
        )

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
        ``past_key_values`` give only the new tokens. ``use_cache`` defaults to the configuration's in
        evaluation and to no in training.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions and self.attn_implementation != "eager":
            raise ConfigError(
                "output_attentions: only attn_implementation eager has attention weights to return"
            )
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache, packed=cu_seqlens is not None)
        visibility = Visibility.of(x, attention_mask, cu_seqlens, cache.get_seq_length() if cache else 0)
        rotation = self._rotation(x, position_ids, visibility)
        hidden_states, attentions = [x], []
        for layer in self.layers:
            x, weights = layer(x, rotation, visibility, cache)
            if output_hidden_states:
                hidden_states.append(x)
            if output_attentions:
                attentions.append(weights)
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=cache,
            hidden_states=(*hidden_states[:-1], x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _cache(
        self, given: DynamicCache | None, use_cache: bool | None, *, packed: bool
    ) -> DynamicCache | None:
        if use_cache is None:
            use_cache = given is not None or (self.config.use_cache and not self.training and not packed)
        if use_cache and self.training and self.layers[0].gradient_checkpointing:
            raise ValueError(
                "gradient checkpointing computes layers twice and cannot fill a cache: use_cache=False"
            )
        if not use_cache:
            return None
        return DynamicCache() if given is None else given

    def _rotation(
        self, x: Tensor, position_ids: Tensor | None, visibility: Visibility
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B or 1, 1, T, C) in the type of ``x``."""
        lengths = None
        if visibility.cu_seqlens is not None:
            borders, documents = visibility.cu_seqlens, visibility.document_of
            lengths = borders.diff()[documents][None]
        if position_ids is None:
            positions = torch.arange(visibility.num_keys, device=x.device)
            if visibility.cu_seqlens is not None:
                positions = positions - borders[documents]
            position_ids = positions[None, visibility.num_keys - visibility.num_queries :]
        cos, sin = self.rotary_emb(position_ids, lengths)
        return cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
