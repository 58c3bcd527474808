"""ALBERT, for the shared suite."""

from __future__ import annotations

import transformers

from models.albert import AlbertConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=AlbertConfig,
    oracle_config=transformers.AlbertConfig,
    small={
        "vocab_size": VOCAB,
        "embedding_size": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "classifier_dropout_prob": 0.0,
    },
    shapes={
        "plain": {},
        "groups": {"num_hidden_groups": 2, "inner_group_num": 2},
        "chunks": {"chunk_size_feed_forward": 5, "type_vocab_size": 3, "embedding_size": 8},
        "other-values": {"layer_norm_eps": 1e-3, "hidden_act": "relu", "num_hidden_groups": 3},
    },
    oracles={
        None: transformers.AlbertModel,
        "pretraining": transformers.AlbertForPreTraining,
        "masked_lm": transformers.AlbertForMaskedLM,
        "sequence_classification": transformers.AlbertForSequenceClassification,
        "multiple_choice": transformers.AlbertForMultipleChoice,
        "token_classification": transformers.AlbertForTokenClassification,
        "question_answering": transformers.AlbertForQuestionAnswering,
    },
    token_types=True,
    caches=False,
)
