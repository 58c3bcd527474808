"""State, control and callbacks: the reference's names, called with what they expect."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.state import EVENTS, Callbacks, TrainerCallback, TrainerControl, TrainerState

REFERENCE_EVENTS = {
    "on_init_end",
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_log",
    "on_prediction_step",
    "on_push_begin",
}


class Witness(TrainerCallback):
    """Notes every event with its arguments."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []


def _noting(event: str) -> Any:
    def note(self: Witness, *arguments: Any, **given: Any) -> None:
        self.seen.append((event, arguments, given))

    return note


for _event in EVENTS:
    setattr(Witness, _event, _noting(_event))


def callbacks(*members: Any, **given: Any) -> Callbacks:
    return Callbacks(members, args="args", state=TrainerState(), control=TrainerControl(), **given)


def test_events_are_the_references() -> None:
    import transformers

    assert set(EVENTS) == REFERENCE_EVENTS
    assert {name for name in dir(transformers.TrainerCallback) if name.startswith("on_")} == REFERENCE_EVENTS


@pytest.mark.parametrize("event", sorted(REFERENCE_EVENTS))
def test_every_event_is_called_with_args_state_control_and_what_is_given(event: str) -> None:
    witness = Witness()
    told = callbacks(witness, model="model", optimizer="optimizer")
    told(event, logs={"loss": 1})
    ((name, arguments, given),) = witness.seen
    assert name == event
    assert arguments == ("args", told.state, told.control)
    assert given == {"model": "model", "optimizer": "optimizer", "logs": {"loss": 1}}


def test_callbacks_are_called_in_order_and_only_for_what_they_listen_to() -> None:
    calls: list[str] = []

    class First(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append("first")

    class Second(First):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append("second")

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append("saved")

    told = callbacks(First(), Second())
    told("on_log")
    told("on_save")
    told("on_step_end")
    assert calls == ["first", "second", "saved"]


def test_a_control_that_an_event_returns_is_obeyed() -> None:
    class Stops(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            return TrainerControl(should_training_stop=True)

    told = callbacks(Stops())
    control = told.control
    told("on_step_end")
    assert told.control is control, "the loop holds this one"
    assert control.should_training_stop


def test_states_are_saved_by_class_and_position() -> None:
    class Counts(TrainerCallback):
        def __init__(self) -> None:
            self.count = 0

        def state(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state(self, state: dict[str, Any]) -> None:
            self.count = state["count"]

    one, two = Counts(), Counts()
    one.count, two.count = 3, 5
    saved = json.loads(json.dumps(callbacks(one, TrainerCallback(), two).state_dict()))
    assert saved == {"Counts": {"count": 3}, "Counts-2": {"count": 5}}
    fresh = [Counts(), Counts()]
    callbacks(*fresh).load_state_dict(saved)
    assert [callback.count for callback in fresh] == [3, 5]
    callbacks(*fresh).load_state_dict({}), "a checkpoint without that callback changes nothing"
    assert [callback.count for callback in fresh] == [3, 5]


def test_the_state_survives_its_file_which_the_reference_reads(tmp_path: Path) -> None:
    import transformers

    state = TrainerState(epoch=1.5, global_step=30, log_history=[{"loss": 1.0, "step": 10}], best_metric=0.5)
    state.save_to_json(tmp_path / "trainer_state.json")
    assert TrainerState.load_from_json(tmp_path / "trainer_state.json") == state
    theirs = transformers.TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert (theirs.epoch, theirs.global_step, theirs.best_metric) == (1.5, 30, 0.5)
    assert theirs.log_history == state.log_history


def test_fields_are_the_references() -> None:
    import transformers

    ours = {field.name for field in dataclasses.fields(TrainerState)}
    theirs = {field.name for field in dataclasses.fields(transformers.TrainerState)}
    assert theirs - ours == set()
    ours = {field.name for field in dataclasses.fields(TrainerControl)}
    assert {field.name for field in dataclasses.fields(transformers.TrainerControl)} == ours


def test_a_field_of_a_newer_version_is_not_in_the_way() -> None:
    assert TrainerState.from_dict({"global_step": 3, "from_the_future": 1}).global_step == 3


def test_what_a_new_step_and_a_new_epoch_reset() -> None:
    names = [field.name for field in dataclasses.fields(TrainerControl)]
    control = TrainerControl(**dict.fromkeys(names, True))
    control.new_step()
    assert {name for name in names if getattr(control, name)} == {"should_training_stop", "should_epoch_stop"}
    control.new_epoch()
    assert {name for name in names if getattr(control, name)} == {"should_training_stop"}
