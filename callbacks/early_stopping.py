"""Stop when the metric for the best model has not improved for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class EarlyStoppingCallback(TrainerCallback):
    """Stops after ``patience`` evaluations in a row that were not better than the best by over ``threshold``.

    The wait is saved with each checkpoint. Reference: main_classes/callback.
    """

    patience: int = 1
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience: at least 1 is wanted, {self.patience} was given.")
        self._waited = 0

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics = kwargs["metrics"]
        value, best = metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"], state.best_metric
        gain = None if best is None else (value - best if args.greater_is_better else best - value)
        self._waited = 0 if gain is None or gain > self.threshold else self._waited + 1
        if self._waited >= self.patience:
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        return {"waited": self._waited}

    def load_state(self, state: dict[str, Any]) -> None:
        self._waited = state["waited"]
