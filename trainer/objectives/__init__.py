"""Training methods by name: what is minimised, given a model and a batch.

An ``Objective`` has attributes ``head`` (the model's head it needs) and ``collator``, and two methods:
``weights(batch) -> {term: count}`` from the batch alone, and ``objective(model, batch) -> Loss``. The loop
adds the weights of a whole optimizer step over micro-batches and ranks, and divides each sum by them once.
"""

from __future__ import annotations

CATALOG = {
    "causal_lm": ("trainer.objectives.options:CausalLMOptions", "trainer.objectives.causal_lm:CausalLM"),
}
