"""What a checkpoint holds and what happens when it cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from safetensors import safe_open

from conf.errors import CheckpointError
from tests.trainer.saved_runs import lines
from trainer import manifest
from trainer.cli import run_command
from trainer.retention import checkpoints, newest_valid

TINY = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    "data.max_truncated=1",
    "training.max_steps=6",
    "logging.logging_steps=2",
    "evaluation.eval_steps=2",
    "checkpoint.save_steps=2",
    "callbacks.samples=null",
    "callbacks.progress=null",
)


def test_contents(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_command([*TINY, f"output_dir={run}"])
    folder = run / "checkpoint-6"
    with safe_open(folder / "training" / "optimizer.safetensors", "pt") as file:
        states = set(file.keys())
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert states == {f"{name}/{state}" for name in names for state in ("exp_avg", "exp_avg_sq", "step")}
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    assert state["best_model_checkpoint"] in {"checkpoint-2", "checkpoint-4", "checkpoint-6"}, "relative"
    saved = yaml.safe_load((folder / "training" / "config.yaml").read_text())
    assert saved["optimizer"]["learning_rate"] == 1e-3
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (run / name).samefile(folder / name), "the final model takes no room of its own"


def test_the_best_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    """With a rate this high the first evaluation stays the best."""
    run = tmp_path / "run"
    run_command([*TINY, "checkpoint.save_total_limit=1", "optimizer.learning_rate=1", f"output_dir={run}"])
    state = json.loads((run / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == "checkpoint-2"
    assert [c.step for c in checkpoints(run)] == [2, 6]


def test_no_checkpoint_at_all_still_ends_with_a_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [word for word in TINY if not word.startswith("checkpoint.save_steps")]
    run_command([*words, "checkpoint.save_strategy=no", f"output_dir={run}"])
    assert checkpoints(run) == []
    assert (run / "model.safetensors").exists()


def disk(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
    """Each look at the disk shows the next number of free bytes; the last one stays."""

    def statvfs(path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=free.pop(0) if len(free) > 1 else free[0], f_frsize=1)

    monkeypatch.setattr(manifest.os, "statvfs", statvfs)


def test_a_disk_too_small_for_one_checkpoint_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, [1000])
    with pytest.raises(CheckpointError, match=r"needs [\d,]+ bytes and its disk has 1,000 free"):
        run_command([*TINY, f"output_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_disk_that_fills_up_leaves_the_run_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, twin = tmp_path / "run", tmp_path / "twin"
    disk(monkeypatch, [10**12, 10**12, 1000])  # before the run, at the first save, at the second
    with pytest.raises(CheckpointError, match="nothing was written"):
        run_command([*TINY, f"output_dir={run}"])
    assert [c.step for c in checkpoints(run)] == [2]
    assert newest_valid(run, print) is not None
    monkeypatch.undo()
    run_command([*TINY, f"output_dir={run}", "resume=auto"])
    run_command([*TINY, f"output_dir={twin}"])
    assert (run / "model.safetensors").read_bytes() == (twin / "model.safetensors").read_bytes()
    assert lines(run) == lines(twin)
