"""Llama, for the shared suite."""

from __future__ import annotations

import transformers

from models import LlamaConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=LlamaConfig,
    oracle_config=transformers.LlamaConfig,
    small={
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    },
    shapes={
        "plain": {},
        "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "head_dim": 16},
        "other-values": {"rms_norm_eps": 1e-3, "hidden_act": "gelu"},
    },
    oracles={
        None: transformers.LlamaModel,
        "causal_lm": transformers.LlamaForCausalLM,
        "sequence_classification": transformers.LlamaForSequenceClassification,
    },
)
