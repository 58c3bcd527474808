"""Early stopping waits exactly as long as the reference's."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from callbacks import EarlyStoppingCallback
from trainer.state import TrainerControl, TrainerState


def stops_at(callback: Any, values: list[float], *, greater: bool) -> int | None:
    """The evaluation after which the callback stops; the best is updated after it has seen the metric."""
    args = SimpleNamespace(metric_for_best_model="score", greater_is_better=greater)
    state, control = TrainerState(), TrainerControl()
    for number, value in enumerate(values):
        callback.on_evaluate(args, state, control, metrics={"eval_score": value})
        if control.should_training_stop:
            return number
        best = state.best_metric
        if best is None or (value > best if greater else value < best):
            state.best_metric = value
    return None


@pytest.mark.parametrize("greater", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
@pytest.mark.parametrize("patience", [1, 2, 4])
def test_it_stops_when_the_reference_does(patience: int, threshold: float, greater: bool) -> None:
    draw = random.Random(patience)
    seen = set()
    for _ in range(200):
        values = [round(draw.uniform(0, 1), 1) for _ in range(12)]
        theirs = transformers.EarlyStoppingCallback(patience, threshold)
        ours = EarlyStoppingCallback(patience=patience, threshold=threshold)
        wanted = stops_at(theirs, values, greater=greater)
        assert stops_at(ours, values, greater=greater) == wanted, values
        seen.add(wanted)
    assert len(seen) >= 3, "it stopped early and late"


def test_a_metric_that_is_not_a_number_is_no_improvement() -> None:
    callback = EarlyStoppingCallback(patience=2)
    assert stops_at(callback, [1.0, float("nan"), float("nan")], greater=False) == 2


def test_its_wait_is_its_state() -> None:
    first, second = EarlyStoppingCallback(patience=3), EarlyStoppingCallback(patience=3)
    assert stops_at(first, [1.0, 2.0, 2.0], greater=False) is None
    assert first.state() == {"waited": 2}
    second.load_state(first.state())
    assert second.state() == {"waited": 2}


def test_patience_is_at_least_one() -> None:
    with pytest.raises(ValueError, match=r"^patience: at least 1 is wanted, 0 was given\.$"):
        EarlyStoppingCallback(patience=0)
