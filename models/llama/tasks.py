"""The documented names of Llama models."""

from __future__ import annotations

from models.auto import Composition

LlamaModel = Composition(task=None, family="llama")
LlamaForCausalLM = Composition(task="causal_lm", family="llama")
LlamaForSequenceClassification = Composition(task="sequence_classification", family="llama")
