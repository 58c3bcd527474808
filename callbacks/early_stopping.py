"""Stop when the metric for the best model has not improved for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from callbacks.watched_metric import WatchedMetric, gain
from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass
class EarlyStoppingCallback(TrainerCallback):
    """Stops after ``early_stopping_patience`` evaluations in a row that were not better than the best.

    Better is better by more than ``early_stopping_threshold``. The wait is saved with each checkpoint. Raises
    ``ConfigError`` in a training without evaluations, or where no evaluated set has the metric. Reference:
    main_classes/callback.
    """

    early_stopping_patience: int = 1
    early_stopping_threshold: float = 0.0

    def __post_init__(self) -> None:
        if (patience := self.early_stopping_patience) < 1:
            raise ValueError(f"early_stopping_patience: at least 1 is wanted, {patience} was given.")
        self.early_stopping_patience_counter = 0
        self._metric = WatchedMetric("early stopping")

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._metric.begin(args)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        value = self._metric.value(args, kwargs["metrics"], kwargs.get("eval_dataloader"))
        if value is None:
            return
        self.check_metric_value(args, state, control, value)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def check_metric_value(
        self, args: Any, state: TrainerState, control: TrainerControl, metric_value: float
    ) -> None:
        """Begin to wait anew, or wait longer."""
        better_by = gain(args, metric_value, state.best_metric)
        if better_by is None or better_by > self.early_stopping_threshold:
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1

    def state(self) -> dict[str, Any]:
        """Under the reference's names, so that either can go on where the other was."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
