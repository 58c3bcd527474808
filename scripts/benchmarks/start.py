"""From the shell to the end of the first step, and what is resident then."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scripts.benchmarks.material import write_material
from scripts.benchmarks.measure import Round, Sample, Spread, column, differences, ratios, run_rounds
from scripts.benchmarks.processes import CHILDREN, run_child, train
from scripts.benchmarks.table import Bar, Result, Skipped

ROWS, TOKENS = 1, 512
WORDS = (
    "+recipe=pretrain_llama",
    "training.max_steps=1",
    f"training.per_device_train_batch_size={ROWS}",
    f"data.max_length={TOKENS}",
    "evaluation.eval_strategy=no",
    "checkpoint.save_strategy=no",
)
ABOUT = (
    f"`train.py +recipe=pretrain_llama` with {ROWS} row of {TOKENS} tokens, token cache warm, evaluation and "
    "saving off, 2 threads; bare torch is a script with a plain Llama of the same size, full logits, "
    "clipping and fused AdamW on a batch of the same shape; the Trainer has a LlamaForCausalLM of the same "
    "size and its rows in memory."
)
MEGABYTE = 1e6


def measure_start(rounds: int) -> list[Result | Skipped]:
    """The row ``start``."""
    found = _rounds(rounds)
    results: list[Result | Skipped] = [_start(found, "bare torch", 1.4)]
    if "Trainer" in found[0].samples:
        return [*results, _start(found, "Trainer", 0.85)]
    return [*results, Skipped(row="start", reason="transformers, to compare with, is not installed.")]


def measure_memory(rounds: int) -> list[Result | Skipped]:
    """The row ``memory``, of the same runs."""
    found = _rounds(rounds)
    more = differences(found, "ours", "bare torch", "rss_megabytes")
    ours, theirs = (Spread.of(column(found, name, "rss_megabytes")) for name in ("ours", "bare torch"))
    return [
        Result(
            row="memory",
            other="bare torch",
            ours=f"{ours.median:.0f} MB",
            theirs=f"{theirs.median:.0f} MB",
            figure=more,
            bar=Bar(value=80, sense="<=", unit="MB more"),
            about="resident size (Rss in /proc/self/smaps_rollup) after the first step of the runs of start.",
            rounds=found,
        )
    ]


def _start(found: list[Round], other: str, bar: float) -> Result:
    ours, theirs = (Spread.of(column(found, name, "seconds")) for name in ("ours", other))
    return Result(
        row="start",
        other=other,
        ours=f"{ours.median:.2f} s",
        theirs=f"{theirs.median:.2f} s",
        figure=ratios(found, "ours", other, "seconds"),
        bar=Bar(value=bar, sense="<=", unit="x"),
        about=ABOUT,
        rounds=found,
    )


@cache
def _rounds(count: int) -> list[Round]:
    """Each contestant started afresh in each round; one round before those counted warms the caches."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_material(WORDS, folder)
        sizes = [str(folder), str(ROWS), str(TOKENS)]
        contestants: dict[str, Callable[[], Sample]] = {
            "ours": lambda: _sample(train(WORDS)),
            "bare torch": lambda: _sample(run_child(CHILDREN / "bare_torch.py", sizes)),
        }
        if find_spec("transformers"):
            one_step = [str(folder), str(ROWS), "1", str(TOKENS)]
            contestants["Trainer"] = lambda: _sample(run_child(CHILDREN / "hf_trainer.py", one_step))
        run_rounds(contestants, 1, spare=0)
        return run_rounds(contestants, count)


def _sample(report: Mapping[str, Any]) -> Sample:
    """Seconds to the end of the first step, and megabytes then."""
    seconds = report["step_ends"][0] - report["started"]
    return {
        "seconds": seconds,
        "rss_megabytes": report["rss"] / MEGABYTE,
        "pss_megabytes": report["pss"] / MEGABYTE,
    }
