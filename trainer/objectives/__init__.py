"""Training methods by name: what is minimised, given a model and a batch.

An ``Objective`` (``trainer.objectives.objective``) has attributes ``head`` (the model's head it needs) and
``collator``, and to train with ``weights(batch) -> {term: count}`` from the batch alone and
``objective(model, batch) -> Loss``. The loop adds the weights of a whole optimizer step over micro-batches
and ranks, and divides each sum by them once. To look without learning it has ``predict`` and ``predictions``.
"""

from __future__ import annotations

CATALOG = {
    "causal_lm": ("trainer.objectives.options:CausalLMOptions", "trainer.objectives.causal_lm:CausalLM"),
}
