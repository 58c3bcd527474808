"""Stop when the metric for the best model has not improved for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from conf.errors import ConfigError
from conf.plugins import nearest
from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class EarlyStoppingCallback(TrainerCallback):
    """Stops after ``patience`` evaluations in a row that were not better than the best by over ``threshold``.

    Of several sets that are evaluated one by one, the one counts whose results have the metric. The wait is
    saved with each checkpoint. Raises ``ConfigError`` in a training without evaluations, or where none of the
    sets has the metric. Reference: main_classes/callback.
    """

    patience: int = 1
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience: at least 1 is wanted, {self.patience} was given.")
        self._waited = 0
        self._without: list[Mapping[str, Any]] = []  # results in a row that lack the metric

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._without = []
        if args.eval_strategy == "no":
            raise ConfigError(
                "callbacks: early stopping goes by evaluation results, and there are none; set eval_strategy."
            )

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics, name = kwargs["metrics"], f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if name not in metrics:
            self._miss(name, metrics, kwargs.get("eval_dataloader"))
            return
        self._without = []
        value, best = metrics[name], state.best_metric
        gain = None if best is None else (value - best if args.greater_is_better else best - value)
        self._waited = 0 if gain is None or gain > self.threshold else self._waited + 1
        if self._waited >= self.patience:
            control.should_training_stop = True

    def _miss(self, name: str, metrics: Mapping[str, Any], sets: Any) -> None:
        """Wait for the results of the next set, unless this was the last."""
        self._without.append(metrics)
        if len(self._without) >= (len(sets) if isinstance(sets, Mapping) else 1):
            known = {key for results in self._without for key in results}
            raise ConfigError(
                f"evaluation.metric_for_best_model: early stopping goes by {name!r}, and no evaluation gave "
                f"it; {nearest(name, known)}"
            )

    def state(self) -> dict[str, Any]:
        return {"waited": self._waited}

    def load_state(self, state: dict[str, Any]) -> None:
        self._waited = state["waited"]
