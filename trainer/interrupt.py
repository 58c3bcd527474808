"""SIGINT and SIGTERM: the first is remembered, so that the loop saves and stops; a second SIGINT ends all."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While entered, ``signal_number`` is 0 until a signal asks the run to stop.

    Without ``sigterm`` that signal ends the process at once, as it does by default.
    """

    def __init__(self, *, sigterm: bool = True) -> None:
        self.signals = (signal.SIGINT, signal.SIGTERM) if sigterm else (signal.SIGINT,)
        self.signal_number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number
