"""Which checkpoint is resumed and which are deleted; processes killed at random moments."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from trainer.manifest import clean_leftovers, publish, verify
from trainer.retention import Checkpoint, checkpoints, newest_valid, retain


def make(run: Path, *steps: int) -> None:
    for step in steps:
        with publish(run / f"checkpoint-{step}", about={"step": step}) as folder:
            folder.write_text("model.safetensors", f"weights of {step}" * 10)


def flip(run: Path, step: int) -> None:
    path = run / f"checkpoint-{step}/model.safetensors"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def truncate(run: Path, step: int) -> None:
    os.truncate(run / f"checkpoint-{step}/model.safetensors", 3)


def steps(found: Iterable[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in found]


def test_checkpoints_are_listed_by_step_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    make(tmp_path, 100, 9, 20)
    for name in (
        "checkpoint-",
        "checkpoint-x",
        "checkpoint-07",
        "checkpoint-5-old",
        ".staging-checkpoint-6-1-a",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-3").write_text("a file")
    assert checkpoints(tmp_path) == [
        Checkpoint(step=step, path=tmp_path / f"checkpoint-{step}") for step in (9, 20, 100)
    ]
    assert checkpoints(tmp_path / "nothing") == []


def test_the_newest_valid_one_is_found_past_damaged_ones_which_are_named(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4, 5)
    flip(tmp_path, 5)
    truncate(tmp_path, 4)
    (tmp_path / "checkpoint-3/MANIFEST.json").unlink()
    messages: list[str] = []
    found = newest_valid(tmp_path, messages.append)
    assert found == Checkpoint(step=2, path=tmp_path / "checkpoint-2")
    assert [message.split(":")[0] for message in messages] == [
        "checkpoint-5 is skipped",
        "checkpoint-4 is skipped",
        "checkpoint-3 is skipped",
    ]
    assert "is damaged" in messages[0]
    assert "is truncated" in messages[1]
    assert "MANIFEST.json" in messages[2]


def test_without_a_valid_one_there_is_none(tmp_path: Path) -> None:
    messages: list[str] = []
    assert newest_valid(tmp_path, messages.append) is None
    assert messages == []
    make(tmp_path, 1)
    flip(tmp_path, 1)
    assert newest_valid(tmp_path, messages.append) is None
    assert len(messages) == 1


def test_the_newest_ones_and_the_best_stay(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4, 5)
    assert steps(retain(tmp_path, limit=2, keep={tmp_path / "checkpoint-2"})) == [1, 3]
    assert steps(checkpoints(tmp_path)) == [2, 4, 5]
    assert steps(retain(tmp_path, limit=2, keep={tmp_path / "." / "checkpoint-2"})) == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_fewer_than_the_limit_all_stay(tmp_path: Path) -> None:
    make(tmp_path, 1, 2)
    assert retain(tmp_path, limit=2) == []
    assert retain(tmp_path / "nothing", limit=1) == []


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_newest_one_never_costs_the_last_valid_one(tmp_path: Path, damage) -> None:
    make(tmp_path, 1, 2, 3)
    damage(tmp_path, 3)
    assert steps(retain(tmp_path, limit=1)) == [1]
    found = newest_valid(tmp_path, lambda message: None)
    assert found is not None
    assert found.step == 2


def test_damaged_ones_do_not_count_but_grow_old(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3, 4, 5)
    truncate(tmp_path, 4)
    truncate(tmp_path, 1)
    assert steps(retain(tmp_path, limit=2)) == [1, 2]
    make(tmp_path, 6)
    assert steps(retain(tmp_path, limit=2)) == [3, 4]
    assert steps(checkpoints(tmp_path)) == [5, 6]


def test_if_all_are_damaged_none_is_deleted(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)
    for step in (1, 2, 3):
        flip(tmp_path, step)
    assert retain(tmp_path, limit=1) == []


def test_only_one_is_read_whole_and_none_that_this_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 1, 2, 3, 4)
    calls: list[tuple[str, bool]] = []

    def spy(path: Path, *, full: bool):
        calls.append((path.name, full))
        return verify(path, full=full)

    monkeypatch.setattr("trainer.retention.verify", spy)
    retain(tmp_path, limit=3)
    assert calls == [("checkpoint-4", True), ("checkpoint-3", False), ("checkpoint-2", False)]
    calls.clear()
    retain(tmp_path, limit=1, written={tmp_path / "checkpoint-4"})
    assert calls == [("checkpoint-4", False)]
    assert steps(checkpoints(tmp_path)) == [4]


CHILD = """
import os, sys
from pathlib import Path
from trainer.manifest import clean_leftovers, publish
from trainer.retention import newest_valid, retain

run = Path(sys.argv[1])
clean_leftovers(run)
start = newest_valid(run, lambda message: print(message, file=sys.stderr))
step = start.step if start else 0
print("start", step, flush=True)
while True:
    step += 1
    path = run / f"checkpoint-{step}"
    with publish(path, about={"step": step}) as folder:
        with folder.open("model.safetensors") as stream:
            for _ in range(8):
                stream.write(os.urandom(1 << 14))
        folder.write_json("trainer_state.json", {"step": step})
        if start:
            folder.link("first.json", start.path / "trainer_state.json")
    print("saved", step, flush=True)
    retain(run, limit=2, keep={start.path} if start else (), written={path})
"""


def kill_at_random(run: Path, rng: random.Random) -> tuple[int, int]:
    """Kill a process that saves in a loop; the step it began at, and the last that it said was saved."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stderr is not None
    with child:
        start = int(child.stdout.readline().split()[1])
        time.sleep(rng.random() * 0.1)
        child.kill()
        said = child.stdout.read().decode().splitlines()
        assert child.stderr.read() == b""  # no error, and no checkpoint that had to be skipped
    return start, max((int(line.split()[1]) for line in said if line.startswith("saved")), default=start)


def survive_kills(run: Path, count: int) -> None:
    rng = random.Random(0)
    last = 0
    for _ in range(count):
        start, saved = kill_at_random(run, rng)
        assert start >= last, "a checkpoint that was once saved is gone"
        found = newest_valid(run, lambda message: pytest.fail(message))
        last = found.step if found else 0
        assert saved <= last <= saved + 1
    clean_leftovers(run)
    assert [path.name for path in run.iterdir() if not path.name.startswith("checkpoint-")] == []
    assert last > count / 2, "the processes were killed before they saved anything: the test shows nothing"


def test_every_kill_leaves_the_newest_checkpoint_whole(tmp_path: Path) -> None:
    survive_kills(tmp_path, 15)


@pytest.mark.stress
def test_two_hundred_kills(tmp_path: Path) -> None:
    survive_kills(tmp_path, 200)
