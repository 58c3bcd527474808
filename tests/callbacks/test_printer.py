"""Log lines as the reference prints them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from callbacks import PrinterCallback
from tests.trainer.small_program import trained
from trainer.state import TrainerControl, TrainerState

LOGS = {"loss": 1.23456789, "learning_rate": 1e-05, "step": 5, "total_flos": 8.5, "text": "as it is"}


def printed(callback: Any, capsys: Any, *, local: bool = True) -> str:
    state = TrainerState(is_local_process_zero=local)
    callback.on_log(None, state, TrainerControl(), logs=dict(LOGS))
    return capsys.readouterr().out


def test_it_prints_what_the_reference_prints(capsys: Any) -> None:
    theirs = printed(transformers.PrinterCallback(), capsys)
    assert printed(PrinterCallback(), capsys) == theirs
    assert "'loss': '1.235'" in theirs


def test_one_process_of_a_machine_speaks_and_the_line_stays_whole(capsys: Any) -> None:
    assert printed(PrinterCallback(), capsys, local=False) == ""
    logs = dict(LOGS)
    PrinterCallback().on_log(None, TrainerState(), TrainerControl(), logs=logs)
    assert logs == LOGS, "others are told of the operations too"


def test_a_training_prints_its_lines(tmp_path: Path, capsys: Any) -> None:
    trainer = trained(tmp_path, parts={"callbacks": [PrinterCallback()]})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(trainer.state.log_history) == 4
    assert all(line.startswith("{'step': ") for line in lines)
