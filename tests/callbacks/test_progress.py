"""What a person sees of a run: a line on a terminal, plain lines elsewhere, a table of an evaluation."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import ProgressCallback
from callbacks.progress import _time
from conf import logging
from trainer.state import TrainerControl, TrainerState

LOGS = {"step": 5, "epoch": 0.5, "loss": 1.25, "learning_rate": 0.001}
EVALUATION = {"step": 5, "epoch": 0.5, "eval_loss": 1.5, "eval_chat_loss": 1.25}


def played(
    *, terminal: bool, monkeypatch: Any, capsys: Any, main: bool = True, quiet: bool | None = None
) -> str:
    """What is written to stderr in a run of ten steps seen from step 5."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    callback = ProgressCallback()
    args = SimpleNamespace(disable_tqdm=quiet)
    state = TrainerState(max_steps=10, is_world_process_zero=main)
    told: Any = (args, state, TrainerControl())
    callback.on_train_begin(*told)
    state.global_step, state.epoch, state.num_input_tokens_seen = 5, 0.5, 1000
    callback.on_step_end(*told)
    callback.on_log(*told, logs=LOGS)
    callback.on_log(*told, logs=EVALUATION)
    callback.on_save(*told)
    callback.on_train_end(*told)
    return capsys.readouterr().err


TABLE = ["evaluation at step 5", "  loss       1.5", "  chat_loss  1.25"]


def test_plain_lines_without_a_terminal(monkeypatch: Any, capsys: Any) -> None:
    lines = played(terminal=False, monkeypatch=monkeypatch, capsys=capsys).splitlines()
    assert re.fullmatch(
        r"step 5/10 \| epoch 0\.50 \| loss 1\.2500 \| rate 1\.00e-03 \| [\d,]+ tokens/s \| 0:00 left",
        lines[0],
    )
    assert lines[1:] == [*TABLE, "saved checkpoint-5"]


def test_one_line_drawn_again_on_a_terminal(monkeypatch: Any, capsys: Any) -> None:
    written = played(terminal=True, monkeypatch=monkeypatch, capsys=capsys)
    assert written.count("\n") == len(TABLE) + 1, "the table, and the end"
    assert written.count("\r\x1b[2Kstep 5/10") >= 2
    assert "saved" not in written
    assert "\n".join(TABLE) in written


@pytest.mark.parametrize("terminal", [True, False])
def test_disable_tqdm_leaves_the_results(terminal: bool, monkeypatch: Any, capsys: Any) -> None:
    written = played(terminal=terminal, monkeypatch=monkeypatch, capsys=capsys, quiet=True)
    assert written.replace("\r\x1b[2K", "").splitlines() == TABLE


@pytest.mark.parametrize("terminal", [True, False])
def test_disabled_progress_bars_leave_the_results(terminal: bool, monkeypatch: Any, capsys: Any) -> None:
    logging.disable_progress_bar()
    try:
        written = played(terminal=terminal, monkeypatch=monkeypatch, capsys=capsys)
    finally:
        logging.enable_progress_bar()
    assert written.replace("\r\x1b[2K", "").splitlines() == TABLE


@pytest.mark.parametrize("terminal", [True, False])
def test_other_ranks_are_silent(terminal: bool, monkeypatch: Any, capsys: Any) -> None:
    assert played(terminal=terminal, monkeypatch=monkeypatch, capsys=capsys, main=False) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0:00"), (59.7, "1:00"), (61, "1:01"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_times(seconds: float, text: str) -> None:
    assert _time(seconds) == text


def test_long_texts_among_the_results_are_not_shown(capsys: Any) -> None:
    told: Any = (SimpleNamespace(disable_tqdm=False), TrainerState(), TrainerControl())
    logs = {"step": 5, "eval_loss": 1.5, "eval_report": "abcdef", "eval_counts": [1, 2]}
    ProgressCallback(6).on_log(*told, logs=logs)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  loss    1.5",
        "  report  abcdef",
        "  counts  [1, 2]",
    ]
    ProgressCallback(max_str_len=5).on_log(*told, logs=logs)
    assert "  report  (a text of 6 characters)" in capsys.readouterr().err
    assert ProgressCallback().max_str_len == 100


def test_a_length_is_no_less_than_nothing() -> None:
    with pytest.raises(ValueError, match=r"^max_str_len: a number of characters is wanted, -1 was given"):
        ProgressCallback(-1)
