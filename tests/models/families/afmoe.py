"""AFMoE, for the shared suite."""

from __future__ import annotations

import transformers

from models.afmoe import AfmoeConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=AfmoeConfig,
    oracle_config=transformers.AfmoeConfig,
    small={
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "global_attn_every_n_layers": 2,
        "sliding_window": 6,
        "pad_token_id": 0,
    },
    shapes={
        "plain": {},
        "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": True, "mup_enabled": True},
        "scaled": {"route_scale": 2.5, "num_shared_experts": 2, "num_experts_per_tok": 3, "head_dim": 16},
        "layers": {"num_dense_layers": 2, "attention_bias": True, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
        "full-first": {
            "layer_types": ["full_attention", *["sliding_attention"] * 3],
            "num_dense_layers": 0,
            "moe_intermediate_size": 20,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        },
    },
    oracles={None: transformers.AfmoeModel, "causal_lm": transformers.AfmoeForCausalLM},
    flips=0.2,
)
