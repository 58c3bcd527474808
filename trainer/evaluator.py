"""Evaluation: the objective's sums over a data set, divided once by its weight, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from trainer.objectives.objective import Objective
from trainer.ranks.ranks import Ranks, unwrap


def _nothing() -> None:
    """What nobody asked to be done after a batch."""


class Evaluator:
    """Called with a model, gives ``{"eval_loss": ...}``; several data sets give ``eval_<name>_loss`` as well.

    ``sets`` maps a name to something iterable over this rank's batches, again and again in the same order.
    """

    def __init__(self, objective: Objective, ranks: Ranks, sets: Mapping[str, Iterable[Any]]):
        self.objective, self.ranks, self.sets = objective, ranks, sets

    @torch.no_grad()
    def __call__(self, model: nn.Module, after_batch: Callable[[], None] = _nothing) -> dict[str, float]:
        model = unwrap(model)
        training = model.training
        model.eval()
        metrics: dict[str, float] = {}
        totals: dict[str, tuple[float, float]] = {}
        for name, batches in self.sets.items():
            for term, (value, weight) in self._sums(model, batches, after_batch).items():
                if len(self.sets) > 1:
                    metrics[f"eval_{name}_{term}"] = value / weight
                before = totals.get(term, (0.0, 0.0))
                totals[term] = (before[0] + value, before[1] + weight)
        model.train(training)
        means = {f"eval_{term}": value / weight for term, (value, weight) in totals.items()}
        return means | metrics

    def _sums(
        self, model: nn.Module, batches: Iterable[Any], after_batch: Callable[[], None]
    ) -> dict[str, tuple[float, float]]:
        terms = list(self.objective.coefficients)
        sums, weights = dict.fromkeys(terms, 0.0), dict.fromkeys(terms, 0.0)
        for batch in batches:
            for term, count in self.objective.weights(batch).items():
                weights[term] += count
            with self.ranks.forward(model):
                loss = self.objective(model, self.ranks.to_device(batch))
            for term, value in loss.terms.items():
                sums[term] += value.item()
            after_batch()
        totals = self.ranks.all_reduce([*sums.values(), *weights.values()])
        return {term: (totals[i], totals[len(terms) + i]) for i, term in enumerate(terms)}
