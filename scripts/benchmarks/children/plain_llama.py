"""A Llama as one would write it by hand in plain torch, equal in size to that of a ``config.json``.

Shapes: B rows, T tokens, D hidden, V words, H heads, K key/value heads, C channels a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        hidden, inner, self.channels = config["hidden_size"], config["intermediate_size"], config["head_dim"]
        width, kv_width = (self.channels * config[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
        self.norm1, self.norm2 = (nn.RMSNorm(hidden, config["rms_norm_eps"]) for _ in range(2))
        self.q, self.k, self.v = (nn.Linear(hidden, n, bias=False) for n in (width, kv_width, kv_width))
        self.o = nn.Linear(width, hidden, bias=False)
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (  # (B, H or K, T, C)
            part(y).unflatten(-1, (-1, self.channels)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PlainLlama(nn.Module):
    """Token ids (B, T) -> logits (B, T, V); the output layer shares the embeddings."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        assert config["tie_word_embeddings"]
        self.channels, self.base = config["head_dim"], config["rope_parameters"]["rope_theta"]
        self.embed = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config["initializer_range"])

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        speeds = self.base ** -(torch.arange(0, self.channels, 2) / self.channels)
        angles = torch.outer(torch.arange(input_ids.shape[1]), speeds).repeat(1, 2)  # (T, C)
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed.weight)
