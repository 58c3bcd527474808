"""What a training is at, and the small public surface that callbacks see.

Fields and events carry the reference's names (main_classes/callback), so that a callback written for it runs
here unchanged. Torch is not imported.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(kw_only=True)
class TrainerState:
    """Where the training is. One step is one optimizer update; ``epoch`` is fractional."""

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


@dataclass(kw_only=True)
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
    (``logs``, ``metrics``). A callback that has state offers ``state() -> dict`` and ``load_state(dict)``; it
    is saved with each checkpoint.
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
            if isinstance(answer, TrainerControl) and answer is not self.control:
                vars(self.control).update(vars(answer))

    def state_dict(self) -> dict[str, Any]:
        """The states of the callbacks that have one, by class name and position among its equals."""
        return {name: c.state() for name, c in self._stateful()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        for name, callback in self._stateful():
            if name in states:
                callback.load_state(states[name])

    def _stateful(self) -> list[tuple[str, Any]]:
        named, seen = [], dict[str, int]()
        for callback in self.callbacks:
            if hasattr(callback, "state") and hasattr(callback, "load_state"):
                name = type(callback).__name__
                seen[name] = seen.get(name, 0) + 1
                named.append((name if seen[name] == 1 else f"{name}-{seen[name]}", callback))
        return named


def _listens(callback: TrainerCallback, event: str) -> bool:
    return getattr(type(callback), event, None) is not getattr(TrainerCallback, event)
