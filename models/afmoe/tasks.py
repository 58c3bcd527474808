"""The documented names of AFMoE models."""

from __future__ import annotations

from models.auto import Composition

AfmoeModel = Composition(task=None, family="afmoe")
AfmoeForCausalLM = Composition(task="causal_lm", family="afmoe")
