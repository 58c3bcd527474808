"""The documented names of BERT models."""

from __future__ import annotations

from models.auto import Composition

BertModel = Composition(task=None, family="bert")
BertForPreTraining = Composition(task="pretraining", family="bert")
BertLMHeadModel = Composition(task="causal_lm", family="bert")
BertForMaskedLM = Composition(task="masked_lm", family="bert")
BertForNextSentencePrediction = Composition(task="next_sentence", family="bert")
BertForSequenceClassification = Composition(task="sequence_classification", family="bert")
BertForMultipleChoice = Composition(task="multiple_choice", family="bert")
BertForTokenClassification = Composition(task="token_classification", family="bert")
BertForQuestionAnswering = Composition(task="question_answering", family="bert")
