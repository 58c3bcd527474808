"""The share of labels that have the highest score."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from conf.errors import ConfigError
from models.heads.chunked import IGNORED
from trainer.metrics.options import AccuracyOptions
from trainer.objectives.objective import Prediction


class Accuracy:
    """Of supervised tokens (logits (B, T, V), labels (B, T)) or of rows ((B, L), (B,)); -100 is not counted.

    Where tokens are predicted from those before them, each score is compared with the label one later.
    Raises ``ConfigError`` for labels that name no class a score.
    """

    names = ("accuracy",)
    needs_logits = True

    def __init__(self, options: AccuracyOptions):
        self.options = options
        self.reset()

    def reset(self) -> None:
        self._right = self._counted = 0

    def update(self, prediction: Prediction) -> None:
        logits, labels = prediction.logits, prediction.labels
        if labels is None:
            return
        _refuse_other_than_classes(logits, labels)
        if prediction.next_token:
            logits, labels = logits[:, :-1], labels[:, 1:]
        counted = labels != IGNORED
        self._right += int(((logits.argmax(dim=-1) == labels) & counted).sum())
        self._counted += int(counted.sum())

    def state(self) -> tuple[int, int]:
        return self._right, self._counted

    def compute(self, states: Sequence[tuple[int, int]]) -> dict[str, float]:
        right, counted = (sum(numbers) for numbers in zip(*states, strict=True))
        return {"accuracy": right / counted} if counted else {}


def _refuse_other_than_classes(logits: object, labels: object) -> None:
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        raise ConfigError(
            "metrics.accuracy: one tensor of scores and one of labels is wanted, "
            f"{type(logits).__name__} and {type(labels).__name__} were given; leave the metric out."
        )
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise ConfigError(
            f"metrics.accuracy: labels {tuple(labels.shape)} of {labels.dtype} do not name one class for "
            f"each line of scores {tuple(logits.shape)}; leave the metric out."
        )
