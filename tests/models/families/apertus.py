"""Apertus, for the shared suite."""

from __future__ import annotations

import transformers

from models.apertus import ApertusConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=ApertusConfig,
    oracle_config=transformers.ApertusConfig,
    small={
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "num_labels": 3,
        "classifier_dropout": 0.0,
    },
    shapes={
        "plain": {},
        "grouped": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 16},
        "other-values": {
            "rms_norm_eps": 1e-3,
            "hidden_act": "gelu",
            "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            "pad_token_id": 0,
        },
    },
    oracles={
        None: transformers.ApertusModel,
        "causal_lm": transformers.ApertusForCausalLM,
        "token_classification": transformers.ApertusForTokenClassification,
    },
)
