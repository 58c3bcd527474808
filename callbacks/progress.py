"""A progress line on a terminal, plain lines elsewhere, and evaluation results as a small table."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from conf import logging
from trainer.state import TrainerCallback, TrainerControl, TrainerState

_SECONDS_BETWEEN = 0.1  # redraws of the line


@dataclass
class ProgressCallback(TrainerCallback):
    """Shows step, loss, learning rate, tokens a second and the time left; only the main process speaks.

    ``disable_tqdm``, or ``conf.logging.disable_progress_bar()``, silences the line; evaluation results are
    still shown. A result that is a text of more than ``max_str_len`` characters is not shown, only its
    length. Reference: main_classes/callback.
    """

    max_str_len: int = 100

    def __post_init__(self) -> None:
        if self.max_str_len < 0:
            raise ValueError(f"max_str_len: a number of characters is wanted, {self.max_str_len} was given.")
        self._start = (0.0, 0, 0)  # time, step and tokens when the training began
        self._drawn = 0.0
        self._last: dict[str, Any] = {}
        self._terminal = sys.stderr.isatty()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._start = (time.perf_counter(), state.global_step, state.num_input_tokens_seen)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._terminal or not _shown(args) or not state.is_world_process_zero:
            return
        if (now := time.perf_counter()) - self._drawn > _SECONDS_BETWEEN:
            self._drawn = now
            self._draw(state)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if not state.is_world_process_zero:
            return
        if any(name.startswith("eval_") for name in logs):
            self._say(_table(logs, self.max_str_len))
        elif "loss" in logs:
            self._last = dict(logs)
            if not _shown(args):
                return
            if self._terminal:
                self._draw(state)
            else:
                self._say(self._line(state))

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and _shown(args) and not self._terminal:
            self._say(f"saved checkpoint-{state.global_step}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._terminal and state.is_world_process_zero and _shown(args):
            self._draw(state)
            sys.stderr.write("\n")

    def _line(self, state: TrainerState) -> str:
        began, first_step, first_tokens = self._start
        seconds = max(time.perf_counter() - began, 1e-9)
        steps = state.global_step - first_step
        left = (state.max_steps - state.global_step) * seconds / steps if steps else 0.0
        parts = [f"step {state.global_step}/{state.max_steps}", f"epoch {state.epoch:.2f}"]
        if "loss" in self._last:
            parts += [f"loss {self._last['loss']:.4f}", f"rate {self._last['learning_rate']:.2e}"]
        parts += [
            f"{(state.num_input_tokens_seen - first_tokens) / seconds:,.0f} tokens/s",
            f"{_time(left)} left",
        ]
        return " | ".join(parts)

    def _draw(self, state: TrainerState) -> None:
        sys.stderr.write(f"\r\x1b[2K{self._line(state)}")
        sys.stderr.flush()

    def _say(self, text: str) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _shown(args: Any) -> bool:
    """Whether the line is wanted."""
    return not args.disable_tqdm and logging.is_progress_bar_enabled()


def _table(logs: Mapping[str, Any], max_str_len: int) -> str:
    rows = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
    width = max(map(len, rows))
    title = f"evaluation at step {logs['step']}"
    texts = {name: _text(value, max_str_len) for name, value in rows.items()}
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in texts.items())])


def _text(value: Any, max_str_len: int) -> str:
    """A result to be read: a number in six digits, of a long text its length."""
    if isinstance(value, Real):
        return f"{float(value):.6g}"
    text = str(value)
    return text if len(text) <= max_str_len else f"(a text of {len(text)} characters)"


def _time(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
