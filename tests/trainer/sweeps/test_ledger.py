"""What a sweep writes down, and what a kill may do to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from conf.errors import CheckpointError, ConfigError
from trainer.sweeps import ledger as module
from trainer.sweeps.ledger import LEDGER, REQUEST, Ledger

REQUESTED = {"jobs": {"recipe": "x", "a.b": "1,2"}, "sweep": {"seed": 1}}


def line(job: int, status: int = 0) -> dict[str, Any]:
    return {"job": job, "status": status, "overrides": [f"a.b={job}"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "sweep", REQUESTED, resume=False)
    ledger.append(line(0, 1))
    ledger.append(line(1))
    ledger.append(line(0))
    ledger.close()
    return tmp_path / "sweep"


def reopened(folder: Path, request: dict[str, Any] = REQUESTED) -> dict[int, dict[str, Any]]:
    ledger = Ledger(folder, request, resume=True)
    ledger.close()
    return ledger.lines


def test_the_last_line_of_a_job_counts(folder: Path) -> None:
    assert reopened(folder) == {0: line(0), 1: line(1)}
    assert len((folder / LEDGER).read_text().splitlines()) == 3


def test_lines_are_on_the_disk_when_they_are_said_to_be(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((folder / LEDGER).read_text()))
    ledger = Ledger(folder, REQUESTED, resume=True)
    ledger.append(line(2))
    ledger.close()
    assert synced[-1].endswith('{"job": 2, "status": 0, "overrides": ["a.b=2"]}\n')


def test_every_length_of_a_torn_last_line_is_dropped(folder: Path) -> None:
    path = folder / LEDGER
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last):
        path.write_bytes(whole[: len(whole) - cut])
        ledger = Ledger(folder, REQUESTED, resume=True)
        assert ledger.lines == {0: line(0, 1), 1: line(1)}
        ledger.append(line(0))
        ledger.close()
        assert path.read_bytes() == whole


def test_a_line_that_is_no_job_is_an_error(folder: Path) -> None:
    path = folder / LEDGER
    for wrong in (b"{}\n", b"null\n", b'{"job": 1\n'):
        path.write_bytes(b'{"job": 0, "status": 0, "overrides": []}\n' + wrong)
        with pytest.raises(CheckpointError, match=r"sweep\.jsonl:2: this line is no job of a sweep\.$"):
            reopened(folder)


def test_another_sweep_does_not_go_on_with_it(folder: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        Ledger(folder, REQUESTED, resume=False)
    assert str(raised.value) == (
        f"output_dir: {str(folder)!r} holds a sweep already; add resume=auto to go on with it, or choose "
        "another."
    )
    other = {"jobs": {"recipe": "x", "a.b": "1,3", "c": "1"}, "sweep": {"seed": 2}}
    with pytest.raises(ConfigError) as raised:
        reopened(folder, other)
    assert [problem.split(" was started with ")[1] for problem in raised.value.problems] == [
        "a.b '1,2', and '1,3' is given now; give the same command line, or choose another folder.",
        "sweep.seed 1, and 2 is given now; give the same command line, or choose another folder.",
        "c None, and '1' is given now; give the same command line, or choose another folder.",
    ]
    (folder / REQUEST).unlink()
    with pytest.raises(CheckpointError, match=r"there is a sweep\.jsonl without its sweep\.yaml\.$"):
        reopened(folder)


def test_two_cannot_have_it_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_TO_WAIT", 0.0)
    first = Ledger(folder, REQUESTED, resume=True)
    held = os.dup(first.descriptor)  # as a job holds it that outlives its sweep
    for close in (first.close, lambda: os.close(held)):
        with pytest.raises(ConfigError, match="a sweep, or a job that it left, still works in"):
            reopened(folder)
        close()
    assert reopened(folder) == {0: line(0), 1: line(1)}
