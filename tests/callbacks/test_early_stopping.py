"""Early stopping waits exactly as long as the reference's."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from callbacks import EarlyStoppingCallback
from conf.errors import ConfigError
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
        ours = EarlyStoppingCallback(patience, threshold)
        wanted = stops_at(theirs, values, greater=greater)
        assert stops_at(ours, values, greater=greater) == wanted, values
        seen.add(wanted)
    assert len(seen) >= 3, "it stopped early and late"


def test_a_metric_that_is_not_a_number_is_no_improvement() -> None:
    callback = EarlyStoppingCallback(2)
    assert stops_at(callback, [1.0, float("nan"), float("nan")], greater=False) == 2


@pytest.mark.parametrize("ours", [True, False], ids=["saved here", "saved there"])
def test_either_goes_on_with_the_state_of_the_other(ours: bool) -> None:
    kinds = (EarlyStoppingCallback, transformers.EarlyStoppingCallback)
    first, second = kinds if ours else reversed(kinds)
    waiting = first(3, 0.25)
    assert stops_at(waiting, [1.0, 2.0, 2.0], greater=False) is None
    saved = json.loads(json.dumps(waiting.state()))
    assert saved == {
        "args": {"early_stopping_patience": 3, "early_stopping_threshold": 0.25},
        "attributes": {"early_stopping_patience_counter": 2},
    }
    control = TrainerControl()
    told: Any = (SimpleNamespace(metric_for_best_model="score", greater_is_better=False), TrainerState())
    told[1].best_metric = 1.0
    resumed = made_of(second, saved)
    assert resumed.state() == saved
    resumed.on_evaluate(*told, control, metrics={"eval_score": 2.0})
    assert control.should_training_stop


def made_of(kind: type, saved: dict[str, Any]) -> Any:
    """As the reference makes a callback again: from ``args``, then ``attributes``."""
    made = kind(**saved["args"])
    vars(made).update(saved["attributes"])
    return made


def test_a_subclass_that_judges_otherwise_is_heard() -> None:
    class Patient(EarlyStoppingCallback):
        def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: float) -> None:
            self.early_stopping_patience_counter = int(metric_value > 5)

    assert stops_at(Patient(), [1.0, 2.0, 3.0, 6.0, 1.0], greater=False) == 3


def evaluated(callback: Any, name: str | None, *results: dict[str, float], sets: Any = None) -> bool:
    """Whether it stops after these evaluations, of which none is better than the best."""
    args = SimpleNamespace(metric_for_best_model=name or "loss", greater_is_better=False)
    state, control = TrainerState(best_metric=0.5), TrainerControl()
    for metrics in results:
        callback.on_evaluate(args, state, control, metrics=metrics, eval_dataloader=sets)
    return control.should_training_stop


def test_of_several_sets_the_one_counts_that_has_the_metric() -> None:
    first, second = {"eval_a_loss": 1.0}, {"eval_b_loss": 1.0}
    sets = {"a": [], "b": []}
    assert evaluated(EarlyStoppingCallback(), "b_loss", first, second, sets=sets)
    assert not evaluated(EarlyStoppingCallback(2), "b_loss", first, second, first, sets=sets)
    assert evaluated(
        EarlyStoppingCallback(2),
        "eval_a_loss",
        first,
        second,
        first,
        second,
        sets=sets,
    )


def test_a_metric_that_no_set_has_is_an_error_that_lists_what_there_is() -> None:
    first, second = {"eval_a_loss": 1.0}, {"eval_b_loss": 1.0}
    start = (
        "evaluation.metric_for_best_model: early stopping goes by 'eval_loss', and no evaluation gave it; "
    )
    callback = EarlyStoppingCallback()
    assert not evaluated(callback, None, first, sets={"a": [], "b": []})
    with pytest.raises(ConfigError) as error:
        evaluated(callback, None, second, sets={"a": [], "b": []})
    assert str(error.value) == f"{start}did you mean 'eval_b_loss'?"
    with pytest.raises(ConfigError) as error:
        evaluated(EarlyStoppingCallback(), None, {"eval_accuracy": 1.0})
    assert str(error.value) == f"{start}known are eval_accuracy."


def test_a_training_without_evaluations_has_nothing_to_stop_on() -> None:
    told: Any = TrainerState(), TrainerControl()
    EarlyStoppingCallback().on_train_begin(SimpleNamespace(eval_strategy="steps"), *told)
    with pytest.raises(ConfigError) as error:
        EarlyStoppingCallback().on_train_begin(SimpleNamespace(eval_strategy="no"), *told)
    assert str(error.value) == (
        "callbacks: early stopping goes by evaluation results, and there are none; set eval_strategy."
    )


def test_patience_is_at_least_one() -> None:
    with pytest.raises(ValueError, match=r"^early_stopping_patience: at least 1 is wanted, 0 was given\.$"):
        EarlyStoppingCallback(early_stopping_patience=0)
