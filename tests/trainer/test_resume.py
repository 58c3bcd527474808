"""A resumed run is the run that never stopped, bit for bit, however it was stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conf.errors import ConfigError, StoppedError
from tests.trainer.saved_runs import assert_same_checkpoint, digest, lines, untimed
from trainer.cli import run_command
from trainer.manifest import verify
from trainer.retention import checkpoints, newest_valid

ROOT = Path(__file__).parents[2]
TINY = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "model.config.attention_dropout=0.1",  # so that torch's generator matters
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    "data.max_truncated=1",
    "training.max_steps=12",
    "logging.logging_steps=3",
    "evaluation.eval_steps=5",
    "checkpoint.save_steps=4",
    "checkpoint.save_total_limit=null",
    "callbacks.samples=null",
    "callbacks.progress=null",
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run_command([*TINY, f"output_dir={folder}"])
    return folder


def same(run: Path, unbroken: Path) -> None:
    assert digest(run / "model.safetensors") == digest(unbroken / "model.safetensors")
    assert_same_checkpoint(run / "checkpoint-12", unbroken / "checkpoint-12")
    assert lines(run) == lines(unbroken), "the metrics go on without a gap or a repeated step"


def test_two_runs_are_the_same_run(unbroken: Path, tmp_path: Path) -> None:
    run_command([*TINY, f"output_dir={tmp_path / 'run'}"])
    same(tmp_path / "run", unbroken)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [4, 8])
def test_resuming_a_checkpoint(unbroken: Path, tmp_path: Path, step: int, workers: int) -> None:
    run = tmp_path / "run"
    loader = f"data.dataloader_num_workers={workers}"
    run_command([*TINY, loader, f"output_dir={run}"])
    run_command([f"resume={run / f'checkpoint-{step}'}"])
    same(run, unbroken)
    assert (run / "set-aside-checkpoint-12-1").is_dir()


def test_resuming_a_finished_run_says_its_results_again(unbroken: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    run_command([f"resume={run / 'checkpoint-12'}"])
    same(run, unbroken)
    first, again = (json.loads((each / "all_results.json").read_text()) for each in (unbroken, run))
    assert untimed(first) == untimed(again)


class Slow:
    """A plug-in that makes steps last, so that a signal meets a run under way."""

    source = """
import time
from dataclasses import dataclass
from trainer.state import TrainerCallback
CATALOG = {"callbacks": {"slow": "slow:Slow"}}
@dataclass
class Slow(TrainerCallback):
    \"\"\"Sleeps after each step.\"\"\"
    seconds: float = 0.2
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        time.sleep(self.seconds)
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "trainer", *words, f"output_dir={folder}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    assert process.stderr is not None
    raise AssertionError(process.stderr.read()[-3000:])


def wait_until(condition: Callable[[], bool]) -> None:
    goal = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < goal
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "status", "workers"),
    [(signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 2)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_saves_and_stops(
    unbroken: Path, tmp_path: Path, number: signal.Signals, status: int, workers: int
) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(Slow.source)
    words = [*TINY, f"data.dataloader_num_workers={workers}"]
    process = start(tmp_path / "run", *words, f"plugins={plugin}", "callbacks.slow.seconds=0.3")
    wait_for(process, "step 6")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert errors.rstrip().endswith(f"exit status {status}")
    stopped = checkpoints(tmp_path / "run")[-1]
    assert stopped.step in (6, 7)
    with pytest.raises(ConfigError, match=r"trained with slow.py; give it again by plugins=FILE"):
        run_command([f"resume={stopped.path}"])
    run_command([*words, f"output_dir={tmp_path / 'run'}", "resume=auto"])
    same(tmp_path / "run", unbroken)


def test_stopping_between_log_lines_loses_nothing(unbroken: Path, tmp_path: Path) -> None:
    """Step 5 is inside a window of three steps; its part of the next line comes from the checkpoint."""
    run = tmp_path / "run"
    run_command([*TINY, f"output_dir={run}", "checkpoint.save_steps=5"])
    run_command([f"resume={run / 'checkpoint-5'}"])
    assert lines(run) == lines(unbroken)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(Slow.source)
    process = start(tmp_path / "run", *TINY, f"plugins={plugin}", "callbacks.slow.seconds=30")
    wait_for(process, "step 1")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert not checkpoints(tmp_path / "run")


def kill_again_and_again(folder: Path, times: int) -> None:
    """SIGKILL at random moments of a run that saves every step; every start must succeed."""
    moments = random.Random(times)
    words = (
        *TINY,
        "training.max_steps=100000",
        "schedule=constant",
        "checkpoint.save_steps=1",
        "checkpoint.save_total_limit=3",
        "evaluation.eval_steps=100000",
        "logging.logging_steps=1",
    )
    run = folder / "run"
    reached = 0
    for _ in range(times):
        process = start(run, *words, "resume=auto")
        if reached:
            wait_for(process, "going on from")
        else:
            wait_until(lambda: bool(checkpoints(run)))
        goal = time.monotonic() + moments.uniform(0.05, 0.8)
        while time.monotonic() < goal and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()[1][-3000:]
        process.kill()
        process.communicate()
        newest = newest_valid(run, print)
        step = 0 if newest is None else newest.step
        assert step >= reached, "no step that was saved is lost"
        reached = step
    assert reached > times / 4
    # What is left is a run that never stopped.
    found = newest_valid(run, print)
    assert found is not None
    verify(found.path)
    run_command(
        [
            *words,
            f"output_dir={folder / 'unbroken'}",
            f"training.max_steps={reached}",
            "checkpoint.save_steps=100000",
        ]
    )
    twin = folder / "unbroken" / f"checkpoint-{reached}"
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        assert digest(found.path / name) == digest(twin / name)


def test_kills_at_random_moments(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=3)


@pytest.mark.stress
def test_two_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, times=200)


def test_a_stop_is_an_error_that_says_how_to_go_on() -> None:
    assert StoppedError(signal.SIGTERM, "x").exit_status == 143
