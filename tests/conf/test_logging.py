"""Verbosity, formats and handlers, compared with the reference's module where both have the thing."""

from __future__ import annotations

import io
import itertools
import logging as standard
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transformers.training_args as reference_arguments
from transformers.utils import logging as reference

from conf import logging
from conf.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("module", [logging, reference], ids=["ours", "reference"])
OWN = {logging: "stockpot", reference: "transformers"}


def handlers(log: standard.Logger) -> list[standard.Handler]:
    """Those of a logger that pytest did not add."""
    return [handler for handler in log.handlers if type(handler).__module__ != "_pytest.logging"]


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Give back levels, handlers, formats and progress bars of both libraries."""
    logging.get_logger(), reference.get_logger()
    found = [standard.getLogger(name) for name in ("stockpot", "transformers", "py.warnings")]
    kept = [(log, log.level, handlers(log), log.propagate) for log in found]
    formats = {handler: handler.formatter for log in found for handler in log.handlers}
    yield
    for log, level, known, propagate in kept:
        log.handlers[:] = [*(set(log.handlers) - set(handlers(log))), *known]
        log.propagate = propagate
        log.setLevel(level)
    for handler, formatter in formats.items():
        handler.setFormatter(formatter)
    standard.captureWarnings(False)
    logging.enable_progress_bar()
    reference.enable_progress_bar()


def listen(module: ModuleType) -> io.StringIO:
    """What the library's logger says from now on."""
    stream = io.StringIO()
    module.add_handler(standard.StreamHandler(stream))
    return stream


@BOTH
@pytest.mark.parametrize(
    ("setter", "level"),
    [
        ("set_verbosity_debug", 10),
        ("set_verbosity_info", 20),
        ("set_verbosity_warning", 30),
        ("set_verbosity_error", 40),
    ],
)
def test_verbosity_governs_every_logger_below(module: ModuleType, setter: str, level: int) -> None:
    name = f"{OWN[module]}.somewhere"
    stream = listen(module)
    getattr(module, setter)()
    for number in (10, 20, 30, 40, 50):
        module.get_logger(name).log(number, "%d", number)
    assert module.get_verbosity() == level
    assert stream.getvalue().split() == [str(n) for n in (10, 20, 30, 40, 50) if n >= level]


@BOTH
def test_the_first_logger_is_quiet_below_warning_and_keeps_to_itself(module: ModuleType) -> None:
    root = module.get_logger()
    assert (root.name, root.level) == (OWN[module], standard.WARNING)
    assert not root.propagate or (module is reference and "CI" in os.environ), "its one exception"
    module.enable_propagation()
    assert root.propagate
    module.disable_propagation()
    assert not root.propagate


@BOTH
def test_handlers_come_and_go(module: ModuleType) -> None:
    default = handlers(module.get_logger())
    module.disable_default_handler()
    assert handlers(module.get_logger()) == []
    module.enable_default_handler()
    assert handlers(module.get_logger()) == default
    handler = standard.NullHandler()
    module.add_handler(handler)
    assert handlers(module.get_logger()) == [*default, handler]
    module.remove_handler(handler)
    assert handlers(module.get_logger()) == default
    with pytest.raises((ValueError, AssertionError)):
        module.remove_handler(handler)


@BOTH
def test_explicit_format_and_back(module: ModuleType) -> None:
    stream = listen(module)
    log = module.get_logger(f"{OWN[module]}.somewhere")
    module.enable_explicit_format()
    log.warning("first")
    module.reset_format()
    log.warning("second")
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"\[WARNING\|test_logging\.py:\d+\] \d{4}-\d\d-\d\d [\d:,]+ >> first", first)
    assert second == "second"


def test_standard_error_gets_the_library_in_front(capsys: pytest.CaptureFixture[str]) -> None:
    logging.get_logger("trainer.loop").warning("said once")
    logging.enable_explicit_format()
    logging.reset_format()
    logging.get_logger("trainer.loop").error("said again")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "[stockpot] said once\n[stockpot] said again\n")


@pytest.mark.parametrize("name", ["trainer.loop", "stockpot.trainer.loop"])
def test_every_logger_hangs_below_ours(name: str) -> None:
    assert logging.get_logger(name).name == "stockpot.trainer.loop"
    assert logging.get_logger("stockpot") is logging.get_logger()


@BOTH
def test_advice_can_be_switched_off(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = listen(module)
    log = module.get_logger(f"{OWN[module]}.somewhere")
    variable = f"{OWN[module].upper()}_NO_ADVISORY_WARNINGS"
    monkeypatch.delenv(variable, raising=False)
    log.warning_advice("a %s", "hint")
    monkeypatch.setenv(variable, "1")
    log.warning_advice("another hint")
    log.warning("a warning")
    assert stream.getvalue().splitlines() == ["a hint", "a warning"]


def test_advice_names_the_line_that_gave_it() -> None:
    stream = listen(logging)
    logging.enable_explicit_format()
    logging.get_logger("x").warning_advice("a hint")
    assert "test_logging.py" in stream.getvalue()


def test_a_logger_that_was_there_before_gives_advice_too() -> None:
    before = standard.getLogger("stockpot.made_by_somebody_else")
    assert type(before) is standard.Logger
    stream = listen(logging)
    after = logging.get_logger("made_by_somebody_else")
    after.warning_advice("a hint")
    assert after is before
    assert type(after) is logging.Logger
    assert stream.getvalue() == "a hint\n"
    assert type(standard.getLogger("of_another_library")) is standard.Logger


@BOTH
def test_captured_warnings_obey_the_verbosity(
    module: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is reference:  # its handler keeps the standard error that it began with
        monkeypatch.setattr(reference._default_handler, "stream", sys.stderr)
    warnings.simplefilter("always")
    module.set_verbosity_error()
    module.captureWarnings(True)
    warnings.warn("not said", UserWarning, stacklevel=1)
    module.set_verbosity_warning()
    module.captureWarnings(True)
    warnings.warn("said", UserWarning, stacklevel=1)
    module.captureWarnings(False)
    error = capsys.readouterr().err
    assert "UserWarning: said" in error
    assert "not said" not in error


def test_captured_warnings_follow_a_later_verbosity_and_go_back(capsys: pytest.CaptureFixture[str]) -> None:
    py_warnings = standard.getLogger("py.warnings")
    before = handlers(py_warnings)
    logging.captureWarnings(True)
    logging.set_verbosity_error()
    warnings.warn("not said", UserWarning, stacklevel=1)
    assert "not said" not in capsys.readouterr().err
    logging.captureWarnings(False)
    assert (handlers(py_warnings), py_warnings.level) == (before, standard.NOTSET)
    with pytest.warns(UserWarning, match="as ever"):
        warnings.warn("as ever", UserWarning, stacklevel=1)


@BOTH
def test_progress_bars(module: ModuleType) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled

    assert module.is_progress_bar_enabled()
    module.disable_progress_bar()
    assert not module.is_progress_bar_enabled()
    assert are_progress_bars_disabled()
    module.enable_progress_bar()
    assert module.is_progress_bar_enabled()
    assert not are_progress_bars_disabled()


LEVELS = ("debug", "info", "warning", "error", "critical", "passive")
SPEAKERS = [
    {"is_main": True, "is_local_main": True},
    {"is_main": False, "is_local_main": True},
    {"is_main": False, "is_local_main": False},
]


@pytest.mark.parametrize("log_on_each_node", [True, False])
@pytest.mark.parametrize("speaker", SPEAKERS)
def test_process_levels_are_the_reference_s(speaker: dict[str, bool], log_on_each_node: bool) -> None:
    Arguments: Any = reference_arguments.TrainingArguments  # noqa: N806
    for level, replica in itertools.product(LEVELS, LEVELS):
        arguments = SimpleNamespace(
            log_level=level,
            log_level_replica=replica,
            should_log=Arguments.should_log.fget(
                SimpleNamespace(
                    log_on_each_node=log_on_each_node,
                    local_process_index=0 if speaker["is_local_main"] else 1,
                    process_index=0 if speaker["is_main"] else 1,
                )
            ),
        )
        wanted = Arguments.get_process_log_level(arguments)
        assert (
            logging.process_log_level(level, replica, **speaker, log_on_each_node=log_on_each_node) == wanted
        )


def test_passive_is_the_present_level() -> None:
    logging.set_verbosity_error()
    level = logging.process_log_level(
        "passive", "info", is_main=True, is_local_main=True, log_on_each_node=True
    )
    assert level == standard.ERROR


def test_wrong_levels_are_all_named() -> None:
    with pytest.raises(ConfigError) as error:
        logging.process_log_level("loud", "mute", is_main=True, is_local_main=True, log_on_each_node=True)
    assert error.value.problems == (
        "logging.log_level: 'loud' was given; one of debug, info, warning, error, critical, fatal, passive "
        "would do.",
        "logging.log_level_replica: 'mute' was given; one of debug, info, warning, error, critical, fatal, "
        "passive would do.",
    )


@pytest.fixture(scope="module")
def started() -> Callable[[str], tuple[str, str]]:
    """A fresh process with STOCKPOT_VERBOSITY set: the level it has, and what it says."""

    def start(verbosity: str) -> tuple[str, str]:
        code = (
            "import sys; from conf import logging as l; "
            "print(l.get_verbosity(), 'torch' in sys.modules, 'huggingface_hub' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "STOCKPOT_VERBOSITY": verbosity},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip(), done.stderr

    return start


@pytest.mark.parametrize(("verbosity", "level"), [("", 30), ("debug", 10), ("fatal", 50)])
def test_the_environment_sets_the_first_level(
    started: Callable[[str], tuple[str, str]], verbosity: str, level: int
) -> None:
    assert started(verbosity) == (f"{level} False False", "")


def test_an_unknown_level_in_the_environment_is_said(started: Callable[[str], tuple[str, str]]) -> None:
    assert started("loud") == (
        "30 False False",
        "[stockpot] STOCKPOT_VERBOSITY: 'loud' was given; one of debug, info, warning, error, critical, "
        "fatal would do.\n",
    )
