"""Two processes over gloo: stopped, resumed, and gone on with by one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from conf.errors import ConfigError
from tests.trainer.saved_runs import digest, lines
from trainer.cli import run_command
from trainer.ranks import launch_environment
from trainer.ranks.ranks import Ranks
from trainer.retention import checkpoints

ROOT = Path(__file__).parents[2]
TINY = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "model.config.attention_dropout=0.1",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    "data.max_truncated=1",
    "training.per_device_train_batch_size=2",
    "training.max_steps=8",
    "logging.logging_steps=1",
    "evaluation.eval_steps=4",
    "checkpoint.save_steps=4",
    "callbacks.samples=null",
    "callbacks.progress=null",
)
SLOW = '''
import time
from dataclasses import dataclass
from trainer.state import TrainerCallback
CATALOG = {"callbacks": {"slow": "slow:Slow"}}
@dataclass
class Slow(TrainerCallback):
    """Sleeps after each step."""
    def on_step_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            print("step", state.global_step, flush=True)
        time.sleep(0.5)
'''


def start(*words: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return subprocess.Popen(
        [*launcher, "-m", "trainer", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*words: str) -> tuple[int, str, str]:
    process = start(*words)
    out, errors = process.communicate(timeout=240)
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ranks") / "run"
    status, _, errors = launch(*TINY, f"output_dir={run}")
    assert status == 0, errors[-3000:]
    return run


def test_two_ranks_resume_bit_for_bit_after_a_signal(unbroken: Path, tmp_path: Path) -> None:
    """Dropout draws from a stream of its own on each rank, and each is restored."""
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW)
    run = tmp_path / "run"
    process = start(*TINY, f"output_dir={run}", f"plugins={plugin}", "callbacks.slow={}")
    assert process.stdout is not None
    assert any("step 2" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("exit status 143") == 1, errors[-3000:]
    assert checkpoints(run)[-1].step in (2, 3, 4)
    status, out, errors = launch(*TINY, f"output_dir={run}", "resume=auto")
    assert status == 0, errors[-3000:]
    assert out.count("going on from") == 1
    assert digest(run / "model.safetensors") == digest(unbroken / "model.safetensors")
    assert lines(run) == lines(unbroken)


def test_one_process_goes_on_with_what_two_began(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", str(unbroken), str(run)], check=True)
    with pytest.raises(ConfigError, match=r"a step had 4 rows .* and has 2 now"):
        run_command([f"resume={run / 'checkpoint-4'}"])
    run_command([f"resume={run / 'checkpoint-4'}", "training.gradient_accumulation_steps=2"])
    assert "saved by 2 ranks and resumed by 1" in capsys.readouterr().out
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["step"] == 8


def test_an_error_is_said_once_with_its_status(tmp_path: Path) -> None:
    status, _, errors = launch(*TINY, f"output_dir={tmp_path / 'run'}", "trainng.seed=1")
    assert status != 0
    assert errors.count("trainng: no such key; did you mean 'training'?") == 1
    assert "train.py: exit status 2" in errors


LONELY = '''
from dataclasses import dataclass
from conf.errors import DataError
from trainer.state import TrainerCallback
CATALOG = {"callbacks": {"lonely": "lonely:Lonely"}}
@dataclass
class Lonely(TrainerCallback):
    """An error of one rank alone."""
    def on_step_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            raise DataError("mine.jsonl:7: only this rank reads it.")
'''


def test_an_error_of_one_rank_alone_is_said_by_it(tmp_path: Path) -> None:
    plugin = tmp_path / "lonely.py"
    plugin.write_text(LONELY)
    words = (*TINY, f"output_dir={tmp_path / 'run'}", f"plugins={plugin}", "callbacks.lonely={}")
    status, _, errors = launch(*words)
    assert status != 0
    assert "train.py: rank 1: mine.jsonl:7: only this rank reads it." in errors
    assert "train.py: rank 1: exit status 4" in errors


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "training.gradient_accumulation_steps=4"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "precision=fp16"),
    ],
)
def test_the_launcher_may_not_contradict_the_recipe(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], text: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=text):
        Ranks(use_cpu=True)


def test_launch_environment_reads_the_launchers_variables() -> None:
    found = launch_environment({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    assert (found.rank, found.local_rank, found.world_size, found.local_world_size) == (3, 1, 4, 2)
    alone = launch_environment({})
    assert alone.is_main
    assert alone.world_size == 1
