"""What a training is at, and the small public surface that callbacks see.

Fields and events carry the reference's names (main_classes/callback), so that a callback written for it runs
here unchanged. Torch is not imported.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ExportableState:
    """Something whose state is saved with each checkpoint and set again when the run is resumed.

    ``state()`` gives ``{"args": what it is made with, "attributes": what changes}``, both plain data. Any
    callback with such a method will do; this class is for programs that name it, as the reference's do.
    """

    def state(self) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} has no state() that says what is to be saved.")

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Any:
        """A new one, made with the ``args`` and given the ``attributes`` of a saved state."""
        made = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(made, name, value)
        return made


@dataclass
class TrainerState:
    """Where the training is. One step is one optimizer update; ``epoch`` is fractional.

    ``stateful_callbacks`` may be given as callbacks, and holds their states by class name. A field that is
    None where a list or a mapping is meant is an empty one.
    """

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0.0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log_history = [] if self.log_history is None else self.log_history
        given: Any = self.stateful_callbacks
        self.stateful_callbacks = given if isinstance(given, dict) else states_of(given or ())

    def compute_steps(self, args: Any, max_steps: int) -> None:
        """Take over how often is logged, evaluated and saved; shares of the training become steps."""
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if (every := getattr(args, name)) is not None:
                setattr(self, name, math.ceil(every * max_steps) if every < 1 else int(every))

    def init_training_references(
        self, trainer: Any, max_steps: int, num_train_epochs: int, trial: Any
    ) -> None:
        """Take over the length of the training, which process this is, and the trial of a search if any."""
        self.max_steps, self.num_train_epochs = max_steps, num_train_epochs
        self.is_local_process_zero = trainer.is_local_process_zero()
        self.is_world_process_zero = trainer.is_world_process_zero()
        self.trial_params = None if trial is None else dict(getattr(trial, "params", trial))
        name = getattr(trainer, "hp_name", None)
        if trial is not None and name is not None:
            self.trial_name = name(trial)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerState:
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def save_to_json(self, json_path: str | Path) -> None:
        Path(json_path).write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> TrainerState:
        return cls.from_dict(json.loads(Path(json_path).read_text()))


@dataclass
class TrainerControl:
    """What the loop should do next. Log, evaluate and save reset each step, epoch_stop each epoch."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def new_step(self) -> None:
        self.should_save = self.should_evaluate = self.should_log = False

    def new_epoch(self) -> None:
        self.should_epoch_stop = False


class TrainerCallback:
    """Something that is told what happens and may set flags of the control.

    Every event is called as ``event(args, state, control, **kwargs)`` and may return a control. ``args`` is
    the flat view of the configuration under the reference's names; ``kwargs`` hold ``model``,
    ``processing_class``, ``optimizer``, ``lr_scheduler`` (the schedule: step -> factor), ``train_dataloader``
    (the stream of steps), ``eval_dataloader`` (name -> batches), the ``plan``, and what the event adds
    (``logs``, ``metrics``). A callback that has state offers
    ``state() -> {"args": ..., "attributes": ...}``, both plain data: it is saved with each checkpoint, and
    the attributes are set again when the run is resumed. Two methods are no events of the reference:
    ``log_values(args, state, control, logs, **kwargs) -> dict`` adds to a log line before it is written, and
    ``close()`` releases what the callback holds, however the training ended.
    """

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_epoch_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_substep_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any: ...
    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...
    def on_push_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any: ...


EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))


class Callbacks:
    """The callbacks of a run, called in order.

    Only callbacks that define an event are called for it, so that an event nobody listens to costs nothing.
    """

    def __init__(
        self,
        callbacks: Iterable[TrainerCallback],
        *,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ):
        self.callbacks: list[TrainerCallback] = []
        self.args, self.state, self.control, self.given = args, state, control, given
        self._listeners: dict[str, list[TrainerCallback]] = {event: [] for event in EVENTS}
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: TrainerCallback) -> None:
        """Let one more listen, after the others."""
        self.callbacks.append(callback)
        for event, listeners in self._listeners.items():
            if _listens(callback, event):
                listeners.append(callback)

    def remove(self, callback: TrainerCallback) -> None:
        """Let one of them listen no longer."""
        for listeners in (self.callbacks, *self._listeners.values()):
            listeners[:] = [each for each in listeners if each is not callback]

    def __call__(self, event: str, **more: Any) -> None:
        """Tell every listener of ``event`` (one of ``EVENTS``)."""
        for callback in self._listeners[event]:
            answer = getattr(callback, event)(self.args, self.state, self.control, **self.given, **more)
            if answer is not None and answer is not self.control:
                self._obey(answer)

    def log_values(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """What callbacks add to a log line; those that do define ``log_values``."""
        added: dict[str, Any] = {}
        for callback in self.callbacks:
            if (values := getattr(callback, "log_values", None)) is not None:
                added |= values(self.args, self.state, self.control, logs=line, **self.given)
        return added

    def close(self) -> None:
        """Let callbacks that define ``close`` release what they hold, however the training ended.

        The last comes first: some put something in place of the console, and back what they found there.
        """
        for callback in reversed(self.callbacks):
            if (close := getattr(callback, "close", None)) is not None:
                close()

    def state_dict(self) -> dict[str, Any]:
        """The states of the callbacks that have one, by class name."""
        return states_of(self.callbacks)

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Set the ``attributes`` of saved states; what a callback was made with (``args``) is this run's."""
        for name, callbacks in _stateful(self.callbacks).items():
            saved = states.get(name, [])
            for callback, state in zip(
                callbacks, saved if isinstance(saved, list) else [saved], strict=False
            ):
                for attribute, value in state.get("attributes", {}).items():
                    setattr(callback, attribute, value)

    def _obey(self, answer: Any) -> None:
        """Take over the flags of a control that an event made itself, ours or the reference's."""
        for flag in dataclasses.fields(TrainerControl):
            setattr(self.control, flag.name, getattr(answer, flag.name))


def states_of(callbacks: Iterable[Any]) -> dict[str, Any]:
    """The states of those that have one, by class name; of several of one class a list in their order."""
    states = {name: [each.state() for each in equals] for name, equals in _stateful(callbacks).items()}
    return {name: several if len(several) > 1 else several[0] for name, several in states.items()}


def _stateful(callbacks: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for callback in callbacks:
        if callable(getattr(callback, "state", None)):
            found.setdefault(type(callback).__name__, []).append(callback)
    return found


def _listens(callback: TrainerCallback, event: str) -> bool:
    return getattr(type(callback), event, None) is not getattr(TrainerCallback, event)
