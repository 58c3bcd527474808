"""The Llama architecture: pre-norm decoder layers between token embeddings and a final norm. No heads.

Modules carry the names of Hugging Face checkpoints. Source: LLaMA and Llama 2 (Touvron et al., 2023).
Shapes: B batch, T tokens, S tokens with the cached ones, D hidden, H heads, K key/value heads, C channels a
head.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers.attention import Visibility, attention_named
from models.layers.cache import DynamicCache
from models.layers.decoder import Decoder, DecoderLayer, Rotation
from models.layers.linear import linear
from models.layers.mlp import GatedMLP
from models.layers.norm import RMSNorm
from models.layers.rotary import RotaryEmbedding, rotate_both
from models.llama.config import LlamaConfig


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
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
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


class LlamaDecoderLayer(DecoderLayer):
    """Attention and a gated MLP, each on normalized input and added back."""

    def __init__(self, config: LlamaConfig, layer: int, attn_implementation: str):
        super().__init__()
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

    def _layer(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.self_attn(self.input_layernorm(x), rotation, visibility, cache)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), weights


class LlamaBackbone(Decoder):
    """The backbone: token ids, or embeddings, to hidden states, as ``Decoder`` takes them.

    ``attn_implementation`` is a name in ``models.layers.attention.ATTENTION``.
    """

    def __init__(self, config: LlamaConfig, *, attn_implementation: str = "sdpa"):
        layers = [
            LlamaDecoderLayer(config, layer, attn_implementation) for layer in range(config.num_hidden_layers)
        ]
        super().__init__(
            layers,
            RMSNorm(config.hidden_size, config.rms_norm_eps),
            RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_parameters),
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            pad_token_id=config.pad_token_id,
            use_cache=config.use_cache,
            attn_implementation=attn_implementation,
        )
