"""The documented names of XLM-RoBERTa models."""

from __future__ import annotations

from models.auto import Composition

XLMRobertaModel = Composition(task=None, family="xlm-roberta")
XLMRobertaForMaskedLM = Composition(task="masked_lm", family="xlm-roberta")
