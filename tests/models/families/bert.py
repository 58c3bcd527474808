"""BERT, for the shared suite."""

from __future__ import annotations

import transformers

from models.bert import BertConfig
from tests.models.families.family import VOCAB, FamilyCase

CASE = FamilyCase(
    config=BertConfig,
    oracle_config=transformers.BertConfig,
    small={
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    shapes={
        "plain": {},
        "decoder": {"is_decoder": True, "num_attention_heads": 2},
        "other-values": {
            "hidden_act": "relu",
            "layer_norm_eps": 1e-3,
            "type_vocab_size": 3,
            "pad_token_id": 5,
            "chunk_size_feed_forward": 4,
        },
    },
    oracles={
        None: transformers.BertModel,
        "pretraining": transformers.BertForPreTraining,
        "causal_lm": transformers.BertLMHeadModel,
        "masked_lm": transformers.BertForMaskedLM,
        "next_sentence": transformers.BertForNextSentencePrediction,
        "sequence_classification": transformers.BertForSequenceClassification,
        "multiple_choice": transformers.BertForMultipleChoice,
        "token_classification": transformers.BertForTokenClassification,
        "question_answering": transformers.BertForQuestionAnswering,
    },
    token_types=True,
    causal={"is_decoder": True},
)
