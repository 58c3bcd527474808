"""What the framework says besides its results: one logger, ``stockpot``, with verbosity, format and handlers.

Every logger made here hangs below it, so that one call governs all of them::

    from conf import logging

    logging.set_verbosity_info()
    logger = logging.get_logger(__name__)
    logger.warning_advice("the batch is small for this processor")

The level at the start is WARNING, or what ``STOCKPOT_VERBOSITY`` names. ``STOCKPOT_NO_ADVISORY_WARNINGS=1``
silences ``warning_advice``. Source of names and behaviour: reference page main_classes/logging.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARNING
from logging import WARN as WARN
from typing import Any, TextIO

from conf.errors import ConfigError

NAME = "stockpot"
VERBOSITY = "STOCKPOT_VERBOSITY"
NO_ADVICE = "STOCKPOT_NO_ADVISORY_WARNINGS"
LEVELS = {
    "debug": DEBUG,
    "info": INFO,
    "warning": WARNING,
    "error": ERROR,
    "critical": CRITICAL,
    "fatal": FATAL,
}
PASSIVE = "passive"  # a log level that leaves the verbosity as it is

_FORMAT = logging.Formatter(f"[{NAME}] %(message)s")
_EXPLICIT = logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")
_progress_bars = True


class Logger(logging.Logger):
    """A logger that can also give advice."""

    def warning_advice(self, message: object, *args: object, **kwargs: Any) -> None:
        """``warning``, unless the environment has ``STOCKPOT_NO_ADVISORY_WARNINGS``."""
        if not os.environ.get(NO_ADVICE):
            # One level up, so that the explicit format names the line that gave the advice.
            self.warning(message, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})


class _StderrHandler(logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at that moment: notebooks and tests exchange it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(_FORMAT)

    @property
    def stream(self) -> TextIO:
        return sys.stderr


_HANDLER = _StderrHandler()


def get_logger(name: str | None = None) -> Logger:
    """The logger ``stockpot``, or the one of that name below it, usually ``get_logger(__name__)``."""
    root = _root()
    if name is None or name == NAME:
        return root
    return _logger(f"{NAME}.{name.removeprefix(f'{NAME}.')}")


def get_verbosity() -> int:
    """The level from which on something is said: 10 debug, 20 info, 30 warning, 40 error, 50 critical."""
    return _root().getEffectiveLevel()


def set_verbosity(verbosity: int) -> None:
    """Say what is of this level or above; captured warnings follow."""
    _root().setLevel(verbosity)
    if _HANDLER in _warnings().handlers:
        _warnings().setLevel(verbosity)


def set_verbosity_debug() -> None:
    """Say everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Say what goes on as well."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Say warnings and errors, as at the start."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Say errors only."""
    set_verbosity(ERROR)


def process_log_level(
    log_level: str,
    log_level_replica: str,
    *,
    is_main: bool,
    is_local_main: bool,
    log_on_each_node: bool,
) -> int:
    """The level of this process: ``log_level`` where it speaks for others, else ``log_level_replica``.

    Speakers are the first process of each node, or with ``log_on_each_node=False`` the first of all.
    ``passive`` is the present verbosity. Raises ``ConfigError`` for a level that does not exist.
    """
    levels = {**LEVELS, PASSIVE: get_verbosity()}
    given = {"logging.log_level": log_level, "logging.log_level_replica": log_level_replica}
    wrong = [
        f"{path}: {level!r} was given; one of {', '.join(levels)} would do."
        for path, level in given.items()
        if level not in levels
    ]
    if wrong:
        raise ConfigError(wrong)
    speaks = is_local_main if log_on_each_node else is_main
    return levels[log_level if speaks else log_level_replica]


def enable_default_handler() -> None:
    """Write to standard error, as at the start."""
    _root().addHandler(_HANDLER)


def disable_default_handler() -> None:
    """Write no more to standard error; other handlers go on."""
    _root().removeHandler(_HANDLER)


def add_handler(handler: logging.Handler) -> None:
    """Give what is said to ``handler`` as well."""
    _root().addHandler(handler)


def remove_handler(handler: logging.Handler) -> None:
    """Take back ``add_handler``; raises ``ValueError`` where the handler was never added."""
    if handler not in _root().handlers:
        raise ValueError(f"{handler!r} is no handler of the logger {NAME!r}.")
    _root().removeHandler(handler)


def enable_propagation() -> None:
    """Pass everything on to Python's root logger; where that writes too, disable the default handler."""
    _root().propagate = True


def disable_propagation() -> None:
    """Keep everything below ``stockpot``, as at the start."""
    _root().propagate = False


def enable_explicit_format() -> None:
    """``[LEVEL|file:line] time >> message`` for all present handlers."""
    for handler in _root().handlers:
        handler.setFormatter(_EXPLICIT)


def reset_format() -> None:
    """Take back ``enable_explicit_format``: our own short form, and the plain message for other handlers."""
    for handler in _root().handlers:
        handler.setFormatter(_FORMAT if handler is _HANDLER else None)


def captureWarnings(capture: bool) -> None:  # noqa: N802, the standard library's name
    """Send what the module ``warnings`` issues through our handler and verbosity, or (False) no longer.

    They come from the logger ``py.warnings``; one that has handlers of its own keeps to those.
    """
    if not capture:
        _warnings().removeHandler(_HANDLER)
        _warnings().setLevel(NOTSET)
    else:
        if not _warnings().handlers:
            _warnings().addHandler(_HANDLER)
        _warnings().setLevel(get_verbosity())
    logging.captureWarnings(capture)


def is_progress_bar_enabled() -> bool:
    """Whether progress lines and bars are to be shown."""
    return _progress_bars


def enable_progress_bar() -> None:
    """Show progress lines and bars, those of downloads and uploads among them."""
    _show_progress(True)


def disable_progress_bar() -> None:
    """Show none of them."""
    _show_progress(False)


def _show_progress(shown: bool) -> None:
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    global _progress_bars
    _progress_bars = shown
    (enable_progress_bars if shown else disable_progress_bars)()


def _logger(name: str) -> Logger:
    logger = logging.getLogger(name)
    if not isinstance(logger, Logger):
        # Not logging.setLoggerClass: that would change the loggers of other libraries as well.
        logger.__class__ = Logger
    assert isinstance(logger, Logger)
    return logger


def _warnings() -> logging.Logger:
    """The logger that the standard library sends captured warnings to."""
    return logging.getLogger("py.warnings")


@functools.cache
def _root() -> Logger:
    """The logger above all others, set up when it is first needed; a level it has been given stays."""
    root = _logger(NAME)
    root.addHandler(_HANDLER)
    root.propagate = False
    given = os.environ.get(VERBOSITY, "")
    if root.level == NOTSET:
        root.setLevel(LEVELS.get(given, WARNING))
    if given and given not in LEVELS:
        root.warning("%s: %r was given; one of %s would do.", VERBOSITY, given, ", ".join(LEVELS))
    return root
