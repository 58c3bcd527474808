"""A job's process: what it says, how it is followed, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from trainer.interrupt import Interrupt
from trainer.sweeps import jobs
from trainer.sweeps.jobs import Ended, Lines

# Writes a metrics line each hundredth of a second until it is asked to stop; then it says so and ends.
STEPS = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
def stop(*_):
    (folder / "stopped").touch()
    print("train.py: stopped by a signal", file=sys.stderr)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
for step in range(1, 3000):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "eval_loss": 1 / step}) + "\\n")
    time.sleep(0.01)
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ended]:
    """``started(program, **options)``: a job that is a small program, in the folder ``tmp_path/0``."""

    def run(program: str, interrupt: Interrupt | None = None, **options: Any) -> Ended:
        def command(words: Sequence[str], folder: Path) -> list[str]:
            return [sys.executable, "-c", program, str(folder), *words]

        monkeypatch.setattr(jobs, "command", command)
        monkeypatch.setattr(jobs, "SECONDS_BETWEEN", 0.01)
        return jobs.run(["word"], tmp_path / "0", interrupt=interrupt or Interrupt(), **options)

    return run


def test_the_command_is_this_one_again(tmp_path: Path) -> None:
    assert jobs.command(["+recipe=x"], tmp_path)[1:] == [
        *("-P", "-m", "trainer"),
        "+recipe=x",
        f"output_dir={tmp_path}",
    ]


def test_what_a_failed_job_said_last_is_known_and_its_messages_are_passed_on(
    started: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "train.py: a: is wrong.\ntrain.py: b: is wrong.\ntrain.py: exit status 2\n"
    ended = started(f"import sys; sys.stderr.write({said!r}); sys.exit(2)")
    assert ended == Ended(status=2, error="b: is wrong.")
    assert capsys.readouterr().err == said
    ended = started("raise RuntimeError('out of memory')")
    assert (ended.status, ended.error) == (1, "RuntimeError: out of memory")
    assert started("import os; os.abort()").status == -signal.SIGABRT
    assert started("import sys; print('a warning', file=sys.stderr)") == Ended(status=0)


def test_a_watch_ends_a_job_at_its_line_and_lets_it_save(
    started: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def watch(line: Mapping[str, Any]) -> bool:
        seen.append(line["step"])
        return line["step"] == 7

    ended = started(STEPS, watch=watch)
    assert ended == Ended(status=143, pruned_at={"step": 7, "eval_loss": 1 / 7})
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert (tmp_path / "0" / "stopped").exists()
    assert capsys.readouterr().err == "", "how to go on with it is of no use"


def test_lines_that_were_written_before_a_job_ended_are_looked_at(started: Any, tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; folder = pathlib.Path(sys.argv[1]); folder.mkdir();"
        "(folder / 'metrics.jsonl').write_text('{\"step\": 1}\\n{\"step\": 2}\\n')"
    )
    ended = started(program, watch=lambda line: line["step"] == 2)
    assert ended.pruned_at == {"step": 2}  # whether it had come to its end by itself or not


def test_a_signal_to_the_sweep_stops_the_job_once_and_is_told(started: Any, tmp_path: Path) -> None:
    interrupt = Interrupt()

    def watch(line: Mapping[str, Any]) -> bool:
        interrupt.signal_number = signal.SIGINT
        return False

    ended = started(STEPS, interrupt=interrupt, watch=watch)
    assert (ended.status, ended.stopped) == (143, True)
    assert (tmp_path / "0" / "stopped").exists()


def test_an_error_while_it_is_followed_leaves_no_process(started: Any, tmp_path: Path) -> None:
    program = "import os, pathlib, sys; pathlib.Path(sys.argv[1] + '.pid').write_text(str(os.getpid()));"

    def watch(line: Mapping[str, Any]) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        started(program + STEPS, watch=watch)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0.pid").read_text()), 0)


PARENT = """
import sys
from pathlib import Path
from trainer.interrupt import Interrupt
from trainer.sweeps import jobs
program, folder = sys.argv[1:]
jobs.command = lambda words, folder: [sys.executable, "-c", program, str(folder)]
jobs.run([], Path(folder), interrupt=Interrupt())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock of the ledger alone keeps order")
def test_a_job_saves_and_ends_when_its_sweep_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "0"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, STEPS, str(folder)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    _until((folder / "metrics.jsonl").exists)
    parent.kill()
    parent.wait()
    _until((folder / "stopped").exists)


def _until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_whole_lines_are_read_once_and_a_new_file_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = Lines(path)
    assert list(lines.new()) == []
    path.write_text('{"step": 1}\n{"st')
    assert list(lines.new()) == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert next(lines.new()) == {"step": 2}
    assert list(lines.new()) == []
    other = tmp_path / "other"
    other.write_text(json.dumps({"step": 3}) + "\n")
    other.replace(path)
    assert list(lines.new()) == [{"step": 3}]
