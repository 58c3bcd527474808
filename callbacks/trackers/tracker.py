"""What all trackers have in common: when they begin, what they are told, how they fail, and when they end."""

from __future__ import annotations

import os
import re
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

from callbacks.trackers.facts import model_configuration
from conf import logging
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.secrets import redacted
from trainer.state import TrainerCallback, TrainerControl, TrainerState

logger = logging.get_logger(__name__)

# What a training is summed up by: one value each, and no points of a chart.
SUMMARY = frozenset(
    {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
)
_TRUE = ("1", "ON", "YES", "TRUE")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(kw_only=True)
class Tracker(TrainerCallback):
    """Sends configuration, log lines and results of the main process to a tracker.

    A subclass names the ``package`` that it needs, imports it in ``start`` only, and says how to ``start``,
    ``log`` and ``finish``; where the tracker keeps single values or models, ``summarize``, ``saved`` and
    ``ended`` too. ``run_id``, where the tracker has one, is saved with each checkpoint, so that a resumed run
    goes on in the same chart; a second training of a program gets a run of its own.

    A tracker that cannot start ends the run before its first step (``ConfigError``). What fails later is a
    warning, once, and the training goes on. ``finish`` is called once, also when the training fails:
    ``has_failed`` then says so.

    With ``reopens``, a result that comes outside a training (``Trainer.evaluate`` after ``train``) is sent
    too: the run of ``run_id`` is opened for it and closed again.
    """

    package: ClassVar[Package]
    reopens: ClassVar[bool] = False

    run_id: str | None = field(default=None, init=False)
    has_failed: bool = field(default=False, init=False)
    _started: bool = field(default=False, init=False)
    _has_trained: bool = field(default=False, init=False)
    _has_warned: bool = field(default=False, init=False)

    @abstractmethod
    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        """Open the run; ``config`` is its flat arguments, without secrets. May set ``run_id``.

        With a ``run_id`` from before, go on with that run.
        """

    @abstractmethod
    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers, by ``rewritten`` names."""

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        """Send what sums the training up, by the names of ``SUMMARY``."""
        self.log(rewritten(values), step)

    def saved(self, folder: Path, state: TrainerState) -> None:
        """A checkpoint was written to ``folder``."""

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """The training came to its end and ``kwargs["model"]`` has its final weights; ``finish`` follows."""

    def finish(self) -> None:
        """Close the run."""

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to do; a tracker's environment variable may say no."""
        return True

    # -- events --------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self._started or not self.is_wanted:
            return
        if self._has_trained and state.global_step == 0:
            self.run_id = None
        self._has_trained = self.has_failed = True  # until the end is reached
        try:
            self._open(args, state, kwargs)
        except Exception as error:
            self._started = False
            with suppress(Exception):  # of what is begun by half
                self.finish()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{self._name}: it could not start ({shown(error)}); make that right, or leave this tracker "
                "out."
            ) from error

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._record(kwargs["logs"], args, state, kwargs)

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._record(kwargs["metrics"], args, state, kwargs)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._started:
            with self._surviving():
                self.saved(Path(args.output_dir) / f"checkpoint-{state.global_step}", state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._started:
            self.has_failed = False
            with self._surviving():
                self.ended(args, state, **kwargs)

    def close(self) -> None:
        """End what ``start`` began, if it did."""
        if self._started:
            self._started = False
            with self._surviving():
                self.finish()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"run_id": self.run_id}}

    # -- how -----------------------------------------------------------------------------------------

    def _open(self, args: Any, state: TrainerState, kwargs: Mapping[str, Any]) -> None:
        self._started = True
        with _command_line_without_secrets():
            self.start(args, state, configuration(args, kwargs.get("model")), **kwargs)

    def _record(
        self, logs: Mapping[str, Any], args: Any, state: TrainerState, kwargs: Mapping[str, Any]
    ) -> None:
        if not state.is_world_process_zero:
            return
        if self._started:
            with self._surviving():
                self._send(logs, state.global_step)
        elif self.reopens and self.is_wanted:
            self.has_failed = False
            with self._surviving():
                self._open(args, state, kwargs)
                self._send(logs, state.global_step)
            self.close()

    def _send(self, logs: Mapping[str, Any], step: int) -> None:
        values = numbers(logs)
        if summary := {name: value for name, value in values.items() if name in SUMMARY}:
            self.summarize(summary, step)
        if points := rewritten({name: value for name, value in values.items() if name not in SUMMARY}):
            self.log(points, step)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Let what fails be a warning, and only the first time: a tracker must not cost a training."""
        try:
            yield
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("%s: it failed (%s); the training goes on.", self._name, shown(error))

    @property
    def _name(self) -> str:
        """The module has the catalog's name."""
        return type(self).__module__.rpartition(".")[2]


@contextmanager
def _command_line_without_secrets() -> Iterator[None]:
    """Trackers keep ``sys.argv``, where an access token may stand."""
    words = sys.argv
    sys.argv = [redacted(word) for word in words]
    try:
        yield
    finally:
        sys.argv = words


def configuration(args: Any, model: Any) -> dict[str, Any]:
    """The flat arguments with the model's configuration before them, without access tokens."""
    count = getattr(model, "num_parameters", None)
    size = {} if count is None else {"model/num_parameters": count()}
    return {**model_configuration(model), **args.to_dict(), **size}


def numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    """What of a log line is a number, without its step; NaN and infinity are numbers."""
    return {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, Real) and not isinstance(value, bool) and name != "step"
    }


def rewritten(logs: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log line as trackers group them: ``eval/loss``, ``test/loss``, ``train/loss``."""
    return {_grouped(name): value for name, value in numbers(logs).items()}


def _grouped(name: str) -> str:
    for split in ("eval", "test"):
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return f"train/{name}"


def variable(name: str) -> str | None:
    """What an environment variable says; an empty one says nothing."""
    return os.environ.get(name) or None


def switched_on(name: str) -> bool:
    """Whether an environment variable says 1, on, yes or true."""
    return os.environ.get(name, "").upper() in _TRUE


def shown(error: BaseException) -> str:
    """An error of a tracker's package in a sentence: one line, not too long, without a URL's credentials."""
    text = _CREDENTIALS.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def save_model(folder: Path, model: Any, processor: Any) -> None:
    """Write the model as it is now, and its processor, into ``folder``, for a tracker that keeps models."""
    from trainer.manifest import Folder
    from trainer.model_files import save_processor

    model.save_pretrained(folder)
    save_processor(processor, Folder(folder))
