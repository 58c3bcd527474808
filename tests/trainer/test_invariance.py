"""A step is the same however it is split: over micro-batches, over ranks, packed or padded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.saved_runs import distance
from trainer.cli import run_command

ROOT = Path(__file__).parents[2]
STEPS = 50
TINY = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    f"training.max_steps={STEPS}",
    "optimizer.adam_epsilon=1e-6",
    "logging.logging_steps=1",
    "evaluation.eval_steps=25",
    "checkpoint.save_strategy=no",
    "callbacks.samples=null",
    "callbacks.progress=null",
    "data.max_truncated=1",
)


def train(folder: Path, *words: str) -> Path:
    run_command([*TINY, *words, f"output_dir={folder}"])
    return folder


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines for key in ("loss", "eval_loss") if key in line]


def split(per_device: int, accumulation: int) -> tuple[str, str]:
    return (
        f"training.per_device_train_batch_size={per_device}",
        f"training.gradient_accumulation_steps={accumulation}",
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Batch 8x1, packed and padded."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        packing: train(folder / str(packing), *split(8, 1), f"data.packing={packing}")
        for packing in (True, False)
    }


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("parts", [(4, 2), (1, 8)], ids=["4x2", "1x8"])
def test_micro_batches_do_not_matter(
    whole: dict[bool, Path], tmp_path: Path, packing: bool, parts: tuple[int, int]
) -> None:
    run = train(tmp_path / "run", *split(*parts), f"data.packing={packing}")
    assert distance(whole[packing], run) <= 1e-6
    assert losses(run) == pytest.approx(losses(whole[packing]), rel=1e-6)


def test_an_epoch_that_ends_in_a_short_step_is_split_the_same(tmp_path: Path) -> None:
    """One epoch of a number of rows that no micro-batch divides."""
    words = ("training.max_steps=-1", "training.num_train_epochs=1", "data.packing=false")
    one = train(tmp_path / "one", *split(48, 1), *words)
    other = train(
        tmp_path / "other", *split(5, 9), *words, "training.per_device_train_batch_size=16", *split(16, 3)[1:]
    )
    assert distance(one, other) <= 1e-6


def launch(
    folder: Path, *words: str, script: Sequence[str] = ("-m", "trainer")
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    return subprocess.run(
        [*launcher, *script, *TINY, *words, f"output_dir={folder}"],
        env=environment,
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("packing", "script"),
    [(True, ("-m", "trainer")), (False, (str(ROOT / "scripts" / "train.py"),))],
    ids=["packed, -m trainer", "padded, scripts/train.py"],
)
def test_two_ranks_are_one(
    whole: dict[bool, Path], tmp_path: Path, packing: bool, script: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    done = launch(folder, *split(4, 1), f"data.packing={packing}", script=script)
    assert done.returncode == 0, done.stderr[-3000:]
    assert distance(whole[packing], folder) <= 1e-6
    assert losses(folder) == pytest.approx(losses(whole[packing]), rel=1e-6)
    assert done.stdout.count("2 ranks") == 1, "one rank prints"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"], "every rank uses one run folder"


def test_default_run_folder_is_shared_by_the_ranks(tmp_path: Path) -> None:
    words = [*TINY, *split(4, 1), "training.max_steps=1"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launcher, "-m", "trainer", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "runs" / "sft_llama").iterdir())) == 1
