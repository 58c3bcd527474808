"""What a run says of itself: the open window of a log line, and the file of all lines.

A line's loss is sum / weight over all steps since the last line, so nothing depends on how often one logs.
What else it holds is of its last step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

COUNTERS = ("tokens_slots", "tokens_non_pad", "tokens_supervised")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """One optimizer step over all ranks: summed terms, their weights, the gradient's norm, token counts.

    ``metrics``: what else the objective says of the step.
    """

    sums: Mapping[str, float]
    weights: Mapping[str, float]
    grad_norm: float
    learning_rate: float
    counters: Mapping[str, int]
    metrics: Mapping[str, float] = field(default_factory=dict)


class LogWindow:
    """Collects steps until a line is logged. Token counters run from the beginning of the training."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.total_sum = 0.0
        self.total_weight = 0.0
        self._last: StepResult | None = None

    def add(self, step: StepResult) -> None:
        for term, value in step.sums.items():
            self.sums[term] = self.sums.get(term, 0.0) + value
            self.weights[term] = self.weights.get(term, 0.0) + step.weights[term]
        first = next(iter(step.sums))
        self.total_sum += step.sums[first]
        self.total_weight += step.weights[first]
        for name in COUNTERS:
            self.counters[name] += step.counters[name]
        self._last = step

    def line(self) -> dict[str, Any]:
        """The window as one log line; the window is empty afterwards."""
        assert self._last is not None, "nothing was added since the start"
        values: dict[str, Any] = {
            term: self.sums[term] / self.weights[term] for term in self.sums if self.weights[term]
        }
        values |= {
            "learning_rate": self._last.learning_rate,
            "grad_norm": self._last.grad_norm,
            **self._last.metrics,
            **self.counters,
        }
        self.sums, self.weights = {}, {}
        return values

    @property
    def is_empty(self) -> bool:
        return not self.sums

    @property
    def mean_loss(self) -> float:
        """The loss over the whole training so far."""
        return self.total_sum / self.total_weight if self.total_weight else 0.0

    def state_dict(self) -> dict[str, Any]:
        keys = ("sums", "weights", "counters", "total_sum", "total_weight")
        return {key: getattr(self, key) for key in keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            setattr(self, key, value)


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, appended; NaN and infinity are written as they are."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: IO[str] | None = None

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line through to the file, which stays open until ``close``."""
        if self._stream is None:
            self._stream = self.path.open("a", encoding="utf-8", buffering=1)
        self._stream.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def cut_after(self, step: int) -> None:
        """Keep the lines up to ``step``, as the run goes on from there; the file is replaced at once.

        A summary goes too: the run will come to its end again, and say it then.
        """
        self.close()
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                if values["step"] <= step and "train_runtime" not in values:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # the line that a kill cut short
        staged = self.path.with_suffix(".jsonl.new")
        with staged.open("w", encoding="utf-8") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(self.path)
