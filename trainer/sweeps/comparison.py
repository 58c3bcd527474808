"""What the jobs of a sweep are compared by, and which way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config import RunConfig
from trainer.reports import SPLITS
from trainer.sweeps.options import Direction


def compared_by(config: RunConfig) -> dict[str, Direction]:
    """What jobs are compared by: ``sweep.metrics``, or else what the recipe calls best."""
    section, evaluation = config.sweep, config.evaluation
    split = SPLITS[config.task] if config.task != "train" else "eval"
    if section.metrics:
        return {_full(name, split): direction for name, direction in section.metrics.items()}
    name = _full((evaluation.metric_for_best_model or "loss").removeprefix("eval_"), split)
    greater = evaluation.greater_is_better
    if config.task == "train" and evaluation.eval_strategy == "no":
        name, greater = "train_loss", False
    if greater is None:
        greater = not name.endswith("loss")
    return {name: section.direction or ("maximize" if greater else "minimize")}


def compared(config: RunConfig, results: Mapping[str, Any]) -> dict[str, Any]:
    """What a job without training is ranked by: what the recipe calls best, or else the loss.

    A training says that itself.
    """
    split, evaluation = SPLITS[config.task], config.evaluation
    wanted = f"{split}_{(evaluation.metric_for_best_model or 'loss').removeprefix('eval_')}"
    name = wanted if wanted in results else f"{split}_loss"
    greater = evaluation.greater_is_better if name == wanted else None
    if greater is None:
        greater = not name.endswith("loss")
    return {"metric_name": name, "metric": results[name], "greater_is_better": greater}


def _full(name: str, split: str) -> str:
    return name if name.startswith((f"{split}_", "train_")) else f"{split}_{name}"
