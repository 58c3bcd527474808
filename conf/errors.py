"""The errors a user can cause, each with the exit status that the command ends with.

Every message is one clear sentence: where, what was given, what would do.
"""

from __future__ import annotations

from collections.abc import Iterable


class StockpotError(Exception):
    """Anything that stops a run for a reason the user can act on."""

    exit_status = 1


class ConfigError(StockpotError):
    """The configuration is wrong; nothing was built and nothing was written.

    Carries every problem found, not only the first: ``problems`` is a tuple of sentences.
    """

    exit_status = 2

    def __init__(self, problems: str | Iterable[str]):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class NonFiniteError(StockpotError):
    """A loss or a gradient was NaN or infinite; no update was applied."""

    exit_status = 3


class DataError(StockpotError):
    """A data file or row cannot be used; the message names file and line."""

    exit_status = 4


class CheckpointError(StockpotError):
    """A checkpoint or weights folder cannot be used; the message names it and what is wrong with it."""

    exit_status = 4


class StoppedError(StockpotError):
    """A signal stopped the run after it saved; the status is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str):
        self.exit_status = 128 + signal_number
        super().__init__(message)
