"""A program's model and loss as a training method of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trainer.data.loading import SilentBatch
from trainer.evaluator import num_rows
from trainer.objectives.objective import Loss, Prediction


class ModuleLoss:
    """The loss that ``Trainer.compute_loss`` gives, as a sum over what it was divided by.

    Where the model or function divides by ``num_items_in_batch``, the weight is the number of labels, and a
    step does not depend on how it is split. Where it gives the mean of its batch, each micro-batch weighs 1,
    as it does in the reference, and that promise cannot be made.
    """

    head: ClassVar[str] = ""
    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.steps_itself = type(trainer).training_step is not trainer.own_training_step

    def suits(self, model: nn.Module) -> None:
        """Any model does."""

    def weights(self, batch: Mapping[str, Any]) -> dict[str, int]:
        if isinstance(batch, SilentBatch):
            return {"loss": 0}
        counted = self.trainer.counts_items and self.trainer.labels_of(batch) is not None
        return {"loss": self.trainer.count_items(batch) if counted else 1}

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Loss:
        trainer = self.trainer
        if self.steps_itself and not isinstance(batch, SilentBatch):
            loss = trainer.training_step(model, dict(batch), self._num_items(batch))
            return Loss(terms={"loss": loss.detach() * self._scale(batch)}, propagated=True)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=self._num_items(batch))
        return Loss(terms={"loss": loss.float() * self._scale(batch)})

    def propagate(self, loss: Tensor) -> None:
        """Back-propagate a micro-batch's loss as the loop would: the part of ``Trainer.training_step``."""
        run = self.trainer.run
        scale = run.num_items if self.trainer.counts_items else 1.0
        run.ranks.backward(loss.float() * (scale / run.divisors["loss"]))

    def predict(self, model: nn.Module, batch: Mapping[str, Any], *, loss_only: bool = False) -> Prediction:
        """What ``Trainer.prediction_step`` gives; the loss, a mean of its labels, weighs as many as those."""
        trainer = self.trainer
        loss, logits, labels = trainer.prediction_step(
            model, dict(batch), loss_only, ignore_keys=trainer.ignored_keys
        )
        weight, terms, weights = trainer.count_items(batch), {}, {}
        if loss is not None:
            # The mean of no label is not a number, and adds nothing to the sum.
            terms = {"loss": loss.double().mean() * weight if weight else torch.zeros(())}
            weights = {"loss": weight}
        return Prediction(
            terms=terms,
            weights=weights,
            logits=logits,
            labels=labels,
            losses=None if loss is None else loss.repeat(num_rows(batch)),
            next_token=trainer.shifts_labels,
        )

    def after_update(self, model: nn.Module, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Nothing to do, and nothing to say."""
        return {}

    def _num_items(self, batch: Mapping[str, Any]) -> Tensor | None:
        if not self.trainer.counts_items or self.trainer.labels_of(batch) is None:
            return None
        return torch.tensor(int(self.trainer.run.num_items), device=self.trainer.ranks.device)

    def _scale(self, batch: Mapping[str, Any]) -> float:
        """What a loss was divided by: times it the loss is a sum. 0 for a batch that may not count."""
        if isinstance(batch, SilentBatch):
            return 0.0
        return self.trainer.run.num_items if self._num_items(batch) is not None else 1.0
