"""The Apertus architecture: Llama's decoder with normalized queries and keys, and an ungated xIELU MLP.

Modules carry the names of Hugging Face checkpoints. Sources: Apertus (Swiss AI Initiative, 2025); xIELU
(Huang and Schlag, 2024).
Shapes: B batch, T tokens, S tokens with the cached ones, D hidden, F intermediate, H heads, K key/value
heads, C channels a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.apertus.config import ApertusConfig
from models.layers.attention import Visibility, attention_named
from models.layers.cache import DynamicCache
from models.layers.decoder import Decoder, DecoderLayer, Rotation
from models.layers.mlp import ACTIVATIONS
from models.layers.norm import RMSNorm
from models.layers.rotary import RotaryEmbedding, rotate_both


class XIELU(nn.Module):
    """An activation with a trained curvature on each side: quadratic where positive, else ELU's integral.

    Both begin at 0.8, and are held in a form that softplus keeps positive. ``beta``, the slope at zero, and
    ``eps``, below which the exponential is taken, are fixed, but checkpoints hold them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))
        self.beta = nn.Buffer(torch.empty(()))
        self.eps = nn.Buffer(torch.empty(()))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set both curvatures to 0.8, computed in the parameters' own type as the reference does."""
        self.beta.fill_(0.5)
        self.eps.fill_(-1e-6)
        self.alpha_p.fill_(0.8).expm1_().log_()
        self.alpha_n.fill_(0.8 - 0.5).expm1_().log_()

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., F)"""
        alpha_p = F.softplus(self.alpha_p)
        alpha_n = self.beta + F.softplus(self.alpha_n)
        positive = alpha_p * x * x
        negative = (torch.expm1(torch.min(x, self.eps)) - x) * alpha_n
        return torch.where(x > 0, positive, negative) + self.beta * x


class ApertusMLP(nn.Module):
    """``down(activation(up(x)))``, without biases."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.act_fn = XIELU() if activation == "xielu" else ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return self.down_proj(self.act_fn(self.up_proj(x)))


class ApertusAttention(nn.Module):
    """Grouped-query attention with rotary positions, on queries and keys that each head normalizes."""

    def __init__(self, config: ApertusConfig, layer: int, attn_implementation: str):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.scale, self.dropout = config.head_dim**-0.5, config.attention_dropout
        self.attend, self.rotate = attention_named(attn_implementation), rotate_both
        hidden, bias = config.hidden_size, config.attention_bias
        width, kv_width = (
            config.num_attention_heads * self.head_dim,
            config.num_key_value_heads * self.head_dim,
        )
        self.q_proj = nn.Linear(hidden, width, bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias)
        self.o_proj = nn.Linear(width, hidden, bias)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, S)."""
        by_head = (*x.shape[:2], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x).view(by_head)).transpose(1, 2)  # (B, H, T, C)
        k = self.k_norm(self.k_proj(x).view(by_head)).transpose(1, 2)  # (B, K, T, C)
        v = self.v_proj(x).view(by_head).transpose(1, 2)
        q, k = self.rotate(q, k, *rotation)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, S, C)
        dropout = self.dropout if self.training else 0.0
        out, weights = self.attend(q, k, v, visibility, scale=self.scale, dropout=dropout)
        return self.o_proj(out.transpose(1, 2).flatten(2)), weights


class ApertusDecoderLayer(DecoderLayer):
    """Attention and an MLP, each on normalized input and added back."""

    def __init__(self, config: ApertusConfig, layer: int, attn_implementation: str):
        super().__init__()
        self.self_attn = ApertusAttention(config, layer, attn_implementation)
        self.mlp = ApertusMLP(config.hidden_size, config.intermediate_size, config.hidden_act)
        self.attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def _layer(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.self_attn(self.attention_layernorm(x), rotation, visibility, cache)
        x = x + attended
        return x + self.mlp(self.feedforward_layernorm(x)), weights


class ApertusBackbone(Decoder):
    """The backbone: token ids, or embeddings, to hidden states, as ``Decoder`` takes them.

    ``attn_implementation`` is a name in ``models.layers.attention.ATTENTION``.
    """

    def __init__(self, config: ApertusConfig, *, attn_implementation: str = "sdpa"):
        layers = [
            ApertusDecoderLayer(config, layer, attn_implementation)
            for layer in range(config.num_hidden_layers)
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
