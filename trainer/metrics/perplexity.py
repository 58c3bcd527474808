"""The exponential of the mean loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from conf.errors import ConfigError
from trainer.metrics.options import PerplexityOptions
from trainer.objectives.objective import Prediction


class Perplexity:
    """exp(summed loss / its weight) of the term ``loss``: with token losses, the perplexity a token.

    It is of the loss as it is reported, which label smoothing makes larger. Too large a loss gives infinity.
    Raises ``ConfigError`` for a training method without such a term.
    """

    names = ("perplexity",)
    needs_logits = False

    def __init__(self, options: PerplexityOptions):
        self.options = options
        self.reset()

    def reset(self) -> None:
        self._loss = self._weight = 0.0

    def update(self, prediction: Prediction) -> None:
        if not prediction.terms:
            return
        if "loss" not in prediction.terms:
            raise ConfigError(
                "metrics.perplexity: the objective has no term 'loss', it has "
                f"{', '.join(prediction.terms)}; leave the metric out."
            )
        self._loss += prediction.terms["loss"].item()
        self._weight += prediction.weights["loss"]

    def state(self) -> tuple[float, float]:
        return self._loss, self._weight

    def compute(self, states: Sequence[tuple[float, float]]) -> dict[str, float]:
        loss, weight = (sum(numbers) for numbers in zip(*states, strict=True))
        if not weight:
            return {}
        return {"perplexity": torch.tensor(loss / weight, dtype=torch.float64).exp().item()}
