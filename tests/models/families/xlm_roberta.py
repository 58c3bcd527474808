"""XLM-RoBERTa, for the shared suite."""

from __future__ import annotations

import transformers

from models.xlm_roberta import XLMRobertaConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=XLMRobertaConfig,
    oracle_config=transformers.XLMRobertaConfig,
    small={
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "type_vocab_size": 1,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    shapes={
        "plain": {},
        "other-values": {
            "hidden_act": "relu",  # the head's stays gelu
            "layer_norm_eps": 1e-3,
            "pad_token_id": 3,
            "type_vocab_size": 2,
        },
    },
    oracles={
        None: transformers.XLMRobertaModel,
        "masked_lm": transformers.XLMRobertaForMaskedLM,
    },
    caches=False,
)
