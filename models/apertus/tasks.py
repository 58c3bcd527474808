"""The documented names of Apertus models."""

from __future__ import annotations

from models.auto import Composition

ApertusModel = Composition(task=None, family="apertus")
ApertusForCausalLM = Composition(task="causal_lm", family="apertus")
ApertusForTokenClassification = Composition(task="token_classification", family="apertus")
