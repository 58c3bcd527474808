"""The AFMoE architecture: decoder layers with gated attention and, after the first ones, experts. No heads.

Modules carry the names of Hugging Face checkpoints. Source: the Trinity models (Arcee AI, 2025). Shapes: B
batch, T tokens, S tokens with the cached ones, D hidden, H heads, K key/value heads, C channels a head, E
experts, k experts of a token.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.afmoe.config import AfmoeConfig
from models.layers.attention import Visibility, attention_named
from models.layers.cache import DynamicCache
from models.layers.decoder import Decoder, DecoderLayer, Rotation
from models.layers.experts import MixtureOfExperts, expert_load
from models.layers.mlp import GatedMLP
from models.layers.norm import RMSNorm
from models.layers.rotary import RotaryEmbedding, rotate_both
from models.outputs import MoeModelOutputWithPast

# A layer's output (B, T, D), attention weights (B, H, T, S) if the backend gives them, and of a layer with
# experts the router's logits (B T, E) and the chosen experts (B T, k).
LayerOutput = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


class AfmoeRMSNorm(RMSNorm):
    """Scales in fp32, before the result is cast back."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * wide).to(x.dtype)


class AfmoeAttention(nn.Module):
    """Grouped-query attention with normalized queries and keys, and a gate on what each head found.

    Layers with a window turn queries and keys by their positions, the others know no positions.
    """

    def __init__(self, config: AfmoeConfig, layer: int, attn_implementation: str):
        super().__init__()
        self.layer, self.head_dim, self.window = layer, config.head_dim, config.windows[layer]
        self.scale, self.dropout = config.head_dim**-0.5, config.attention_dropout
        self.attend = attention_named(attn_implementation)
        self.rotate = None if self.window is None else rotate_both
        hidden, bias = config.hidden_size, config.attention_bias
        width = config.num_attention_heads * self.head_dim
        kv_width = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(hidden, width, bias=bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=bias)
        self.o_proj = nn.Linear(width, hidden, bias=bias)
        self.gate_proj = nn.Linear(hidden, width, bias=False)
        self.q_norm = AfmoeRMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = AfmoeRMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) -> (B, T, D) and, from the eager backend, the weights (B, H, T, S)."""
        by_head = (*x.shape[:2], -1, self.head_dim)
        q = self.q_norm(self.q_proj(x).view(by_head)).transpose(1, 2)  # (B, H, T, C)
        k = self.k_norm(self.k_proj(x).view(by_head)).transpose(1, 2)  # (B, K, T, C)
        v = self.v_proj(x).view(by_head).transpose(1, 2)
        if self.rotate is not None:
            q, k = self.rotate(q, k, *rotation)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)  # (B, K, S, C)
        dropout = self.dropout if self.training else 0.0
        out, weights = self.attend(q, k, v, visibility, scale=self.scale, dropout=dropout)
        out = out.transpose(1, 2).flatten(2) * self.gate_proj(x).sigmoid()
        return self.o_proj(out), weights


class AfmoeDecoderLayer(DecoderLayer):
    """Attention and a gated MLP or experts, each normalized before and after, and added back."""

    def __init__(
        self, config: AfmoeConfig, layer: int, attn_implementation: str, experts_implementation: str | None
    ):
        super().__init__()
        self.sparse = layer >= config.num_dense_layers
        self.self_attn = AfmoeAttention(config, layer, attn_implementation)
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.mlp: nn.Module
        if self.sparse:
            self.mlp = MixtureOfExperts(
                *(hidden, config.moe_intermediate_size, config.hidden_act),
                experts=config.num_experts,
                per_token=config.num_experts_per_tok,
                shared=config.num_shared_experts,
                scale=config.route_scale,
                implementation=experts_implementation,
            )
        else:
            self.mlp = GatedMLP(hidden, config.intermediate_size, config.hidden_act, bias=False)
        self.input_layernorm = AfmoeRMSNorm(hidden, eps)
        self.post_attention_layernorm = AfmoeRMSNorm(hidden, eps)
        self.pre_mlp_layernorm = AfmoeRMSNorm(hidden, eps)
        self.post_mlp_layernorm = AfmoeRMSNorm(hidden, eps)

    def _layer(
        self, x: Tensor, rotation: Rotation, visibility: Visibility, cache: DynamicCache | None
    ) -> LayerOutput:
        attended, weights = self.self_attn(self.input_layernorm(x), rotation, visibility, cache)
        x = x + self.post_attention_layernorm(attended)
        inner, logits, chosen = self.pre_mlp_layernorm(x), None, None
        if self.sparse:
            inner, logits, chosen = self.mlp(inner)
        else:
            inner = self.mlp(inner)
        return x + self.post_mlp_layernorm(inner), weights, logits, chosen


class AfmoeBackbone(Decoder):
    """The backbone: token ids, or embeddings, to hidden states, as ``Decoder`` takes them.

    ``attn_implementation`` is a name in ``models.layers.attention.ATTENTION``, ``experts_implementation`` one
    in ``models.layers.experts.EXPERTS``, or None for the best there is. After a forward pass in training
    ``expert_load`` (layers with experts, E) is how many tokens each expert got, padding left out; else None.
    """

    # Steps of the bias are too small for half precision; the norms are as the reference has them in fp16.
    keep_in_fp32: ClassVar[tuple[str, ...]] = (r"norm\.weight$", r"\.expert_bias$")

    def __init__(
        self,
        config: AfmoeConfig,
        *,
        attn_implementation: str = "sdpa",
        experts_implementation: str | None = None,
    ):
        layers = [
            AfmoeDecoderLayer(config, layer, attn_implementation, experts_implementation)
            for layer in range(config.num_hidden_layers)
        ]
        super().__init__(
            layers,
            AfmoeRMSNorm(config.hidden_size, config.rms_norm_eps),
            RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_parameters),
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            pad_token_id=config.pad_token_id,
            use_cache=config.use_cache,
            attn_implementation=attn_implementation,
            windows=config.windows,
        )
        self.num_experts, self.experts_per_token = config.num_experts, config.num_experts_per_tok
        self.output_router_logits = config.output_router_logits
        self.embedding_scale = config.hidden_size**0.5 if config.mup_enabled else None
        self.expert_load: Tensor | None = None

    def set_experts_implementation(self, name: str | None) -> None:
        """Compute the experts by another of ``models.layers.experts.EXPERTS``; None for the best there is."""
        for layer in self.layers:
            if layer.sparse:
                layer.mlp.experts.set_implementation(name)

    @property
    def extra_uses(self) -> int:
        """Less than none: the experts that a token does not choose."""
        sparse = [layer.mlp.experts for layer in self.layers if layer.sparse]
        packed = sum(p.numel() for experts in sparse for p in experts.parameters())
        return packed * self.experts_per_token // self.num_experts - packed

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
        output_router_logits: bool | None = None,
    ) -> MoeModelOutputWithPast:
        """As ``Decoder.forward``; ``output_router_logits`` defaults to the configuration's."""
        if output_router_logits is None:
            output_router_logits = self.output_router_logits
        fields, routed = self._through_layers(
            *(input_ids, inputs_embeds, position_ids, attention_mask, cu_seqlens, past_key_values, use_cache),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
        )
        sparse = [(logits, chosen) for logits, chosen in routed if chosen is not None]
        self.expert_load = None
        if self.training and sparse:  # out here checkpointing does not count a second time
            tokens = fields["last_hidden_state"].shape[1]
            real = None if attention_mask is None else attention_mask[:, -tokens:].flatten().bool()
            loads = [expert_load(chosen, self.num_experts, real) for _, chosen in sparse]
            self.expert_load = torch.stack(loads)
        router_logits = tuple(logits for logits, _ in sparse) if output_router_logits else None
        return MoeModelOutputWithPast(**fields, router_logits=router_logits)

    def _embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """What the first layer gets (B, T, D)."""
        x = super()._embedded(input_ids, inputs_embeds)
        return x if self.embedding_scale is None else x * self.embedding_scale
