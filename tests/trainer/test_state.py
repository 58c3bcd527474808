"""State, control and callbacks: the reference's names, called with what they expect."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.state import EVENTS, Callbacks, ExportableState, TrainerCallback, TrainerControl, TrainerState

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


def test_a_control_of_the_reference_is_obeyed_too() -> None:
    import transformers

    class Asks(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            return transformers.TrainerControl(should_save=True, should_epoch_stop=True)

    told = callbacks(Asks())
    told("on_step_end")
    assert dataclasses.asdict(told.control) == {
        "should_training_stop": False,
        "should_epoch_stop": True,
        "should_save": True,
        "should_evaluate": False,
        "should_log": False,
    }


class Counts(TrainerCallback, ExportableState):
    """Has a state as the reference's callbacks do."""

    def __init__(self, start: int = 0) -> None:
        self.start, self.count = start, start

    def state(self) -> dict[str, Any]:
        return {"args": {"start": self.start}, "attributes": {"count": self.count}}


def test_states_are_saved_by_class_as_in_the_reference() -> None:
    import transformers

    one, two, alone = Counts(1), Counts(2), type("Alone", (Counts,), {})(7)
    one.count, two.count = 3, 5
    told = callbacks(one, TrainerCallback(), two, alone)
    saved = json.loads(json.dumps(told.state_dict()))
    assert saved == {
        "Counts": [
            {"args": {"start": 1}, "attributes": {"count": 3}},
            {"args": {"start": 2}, "attributes": {"count": 5}},
        ],
        "Alone": {"args": {"start": 7}, "attributes": {"count": 7}},
    }
    theirs = type("Counts", (transformers.trainer_callback.ExportableState,), {"state": Counts.state})
    members = []
    for start, count in ((1, 3), (2, 5)):
        members.append(theirs())
        vars(members[-1]).update(start=start, count=count)
    assert (
        transformers.TrainerState(stateful_callbacks=members).stateful_callbacks["Counts"]
        == (saved["Counts"])
    )
    assert TrainerState(stateful_callbacks=[one, two, alone]).stateful_callbacks == saved  # type: ignore[arg-type]


def test_states_are_set_again_by_class_and_position() -> None:
    fresh = [Counts(8), Counts(9)]
    saved = {"Counts": [{"args": {}, "attributes": {"count": 3}}, {"args": {}, "attributes": {"count": 5}}]}
    callbacks(*fresh).load_state_dict(saved)
    assert [callback.count for callback in fresh] == [3, 5]
    assert [callback.start for callback in fresh] == [8, 9], "what they are made with is this run's"
    callbacks(*fresh).load_state_dict({}), "a checkpoint without that callback changes nothing"
    callbacks(*fresh).load_state_dict({"Counts": {"attributes": {"count": 4}}})
    assert [callback.count for callback in fresh] == [4, 5], "one was saved, there are two now"


def test_an_attribute_that_is_called_state_is_none() -> None:
    class Holds(TrainerCallback):
        state = None

    assert callbacks(Holds()).state_dict() == {}


def test_a_saved_state_makes_another(tmp_path: Path) -> None:
    made = Counts.from_state({"args": {"start": 2}, "attributes": {"count": 6}})
    assert (made.start, made.count) == (2, 6)
    with pytest.raises(NotImplementedError, match=r"^ExportableState has no state\(\)"):
        ExportableState().state()


def full_state(kind: Any) -> Any:
    """Every field with a value that is not its default."""
    return kind(
        epoch=1.5,
        global_step=30,
        max_steps=60,
        logging_steps=10,
        eval_steps=15,
        save_steps=30,
        train_batch_size=4,
        num_train_epochs=3,
        num_input_tokens_seen=12345,
        total_flos=1e15,
        log_history=[{"loss": 1.0, "step": 10, "epoch": 0.5}],
        best_metric=0.5,
        best_global_step=15,
        best_model_checkpoint="checkpoint-15",
        is_local_process_zero=False,
        is_world_process_zero=False,
        is_hyper_param_search=True,
        trial_name="one",
        trial_params={"learning_rate": 0.1},
        stateful_callbacks={"Counts": {"args": {}, "attributes": {"count": 1}}},
    )


@pytest.mark.parametrize("ours_writes", [True, False])
def test_a_file_of_either_is_read_by_the_other(ours_writes: bool, tmp_path: Path) -> None:
    import transformers

    kinds = (TrainerState, transformers.TrainerState)
    writer, reader = kinds if ours_writes else reversed(kinds)
    file = str(tmp_path / "trainer_state.json")
    full_state(writer).save_to_json(file)
    read = reader.load_from_json(file)
    assert dataclasses.asdict(read) == dataclasses.asdict(full_state(reader))
    assert dataclasses.asdict(read) == dataclasses.asdict(full_state(writer))
    defaults = dataclasses.asdict(writer())
    assert all(value != defaults[name] for name, value in dataclasses.asdict(read).items())


def test_nothing_given_is_nothing_there() -> None:
    state = TrainerState(log_history=None, stateful_callbacks=None)  # type: ignore[arg-type]
    assert (state.log_history, state.stateful_callbacks) == ([], {})
    assert TrainerState(0.5, 3).global_step == 3, "by position, as programs may write it"


@pytest.mark.parametrize("max_steps", [1, 37, 1000])
@pytest.mark.parametrize("every", [0.1, 0.33, 1, 7, 500.0])
def test_how_often_is_counted_as_by_the_reference(every: float, max_steps: int) -> None:
    import transformers

    args = SimpleNamespace(logging_steps=every, eval_steps=None, save_steps=2 * every)
    states = TrainerState(eval_steps=3), transformers.TrainerState(eval_steps=3)
    for state in states:
        state.compute_steps(args, max_steps)
    assert states[0].to_dict() == dataclasses.asdict(states[1])


def test_it_takes_over_what_the_trainer_knows() -> None:
    import transformers

    trial = SimpleNamespace(params={"learning_rate": 0.1}, number=4)
    trainer = SimpleNamespace(
        is_local_process_zero=lambda: True,
        is_world_process_zero=lambda: False,
        hp_name=lambda trial: f"trial {trial.number}",
        _trial=None,
    )
    states = TrainerState(), transformers.TrainerState()
    for state in states:
        state.init_training_references(trainer, 60, 3, None)
    assert states[0].to_dict() == dataclasses.asdict(states[1])
    states[0].init_training_references(trainer, 60, 3, trial)
    assert (states[0].trial_name, states[0].trial_params) == ("trial 4", {"learning_rate": 0.1})
    trainer.hp_name = None
    states[0].init_training_references(trainer, 60, 3, {"learning_rate": 0.2})
    assert states[0].trial_params == {"learning_rate": 0.2}, "a backend whose trials are mappings"


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
