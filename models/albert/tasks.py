"""The documented names of ALBERT models."""

from __future__ import annotations

from models.auto import Composition

AlbertModel = Composition(task=None, family="albert")
AlbertForPreTraining = Composition(task="pretraining", family="albert")
AlbertForMaskedLM = Composition(task="masked_lm", family="albert")
AlbertForSequenceClassification = Composition(task="sequence_classification", family="albert")
AlbertForMultipleChoice = Composition(task="multiple_choice", family="albert")
AlbertForTokenClassification = Composition(task="token_classification", family="albert")
AlbertForQuestionAnswering = Composition(task="question_answering", family="albert")
