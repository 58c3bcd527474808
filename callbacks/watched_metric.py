"""The number that the best evaluation is told by, as callbacks find it among an evaluation's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conf.errors import ConfigError
from conf.plugins import nearest


class WatchedMetric:
    """``metric_for_best_model`` of one evaluation after the other.

    Of several sets that are evaluated one by one, the one counts whose results have the metric. Raises
    ``ConfigError`` where there are no evaluations, or where none of the sets has the metric; ``who`` goes by
    it, as the sentence says.
    """

    def __init__(self, who: str):
        self.who = who
        self._without: list[Mapping[str, Any]] = []  # results in a row that lack the metric

    def begin(self, args: Any) -> None:
        """A training begins."""
        self._without = []
        if args.eval_strategy == "no":
            raise ConfigError(
                f"callbacks: {self.who} goes by evaluation results, and there are none; set eval_strategy."
            )

    def value(self, args: Any, metrics: Mapping[str, Any], sets: Any) -> float | None:
        """The metric among the results of one of ``sets``; None if a later one may have it.

        Results by another prefix are of what a program looks at besides, and count for nothing.
        """
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if name in metrics:
            self._without = []
            return metrics[name]
        if not any(key.startswith("eval_") for key in metrics):
            return None
        self._without.append(metrics)
        if len(self._without) >= (len(sets) if isinstance(sets, Mapping) else 1):
            known = {key for results in self._without for key in results}
            raise ConfigError(
                f"evaluation.metric_for_best_model: {self.who} goes by {name!r}, and no evaluation gave it; "
                f"{nearest(name, known)}"
            )
        return None


def gain(args: Any, value: float, best: float | None) -> float | None:
    """By how much a value is better than the best so far, below 0 if it is worse; None if it is the first."""
    if best is None:
        return None
    return value - best if args.greater_is_better else best - value
