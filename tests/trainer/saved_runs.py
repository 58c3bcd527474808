"""What two runs must have in common to be the same: files by content, lines without the clock's part."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from trainer.reports import is_timing

# Six steps with dropout, stopped in the middle of them and of the log line that is being collected.
SHORT = (
    "model.config.attention_dropout=0.1",
    "training.per_device_train_batch_size=4",
    "checkpoint.save_total_limit=null",
    "callbacks.progress=null",
)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def untimed(value: Any) -> Any:
    """Plain data without what depends on the clock, at any depth."""
    if isinstance(value, dict):
        return {name: untimed(part) for name, part in value.items() if not is_timing(name)}
    return [untimed(part) for part in value] if isinstance(value, list) else value


def lines(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``, without timings."""
    return [untimed(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Weights, optimizer, generators of each rank, and every number of the state, bit for bit."""
    names = sorted(file.relative_to(other).as_posix() for file in other.rglob("*.safetensors"))
    assert names == sorted(file.relative_to(one).as_posix() for file in one.rglob("*.safetensors"))
    assert len(names) >= 3, "weights, optimizer, generators"
    for name in names:
        assert digest(one / name) == digest(other / name), name
    for name in ("trainer_state.json", "training/state.json"):
        ours, theirs = (untimed(json.loads((folder / name).read_text())) for folder in (one, other))
        assert ours == theirs, name


def distance(one: Path, other: Path) -> float:
    """||a - b|| / ||a|| over the whole model of two folders."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    difference = sum(((a[k] - b[k]).double() ** 2).sum() for k in a)
    return float(torch.sqrt(difference / sum((a[k].double() ** 2).sum() for k in a)))
