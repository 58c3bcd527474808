"""The documented names of Llama models with heads."""

from __future__ import annotations

from models.auto import Composition

LlamaForCausalLM = Composition(head="causal_lm", family="llama")
LlamaForSequenceClassification = Composition(head="sequence_classification", family="llama")
