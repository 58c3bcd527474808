"""Tokens a second that are no padding, on conversations of very different lengths."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from scripts.benchmarks.material import Material, write_material
from scripts.benchmarks.measure import Sample, Spread, column, ratios, run_rounds
from scripts.benchmarks.processes import CHILDREN, run_child, train
from scripts.benchmarks.table import Bar, Result, Skipped

RECIPE = "+recipe=sft_llama"
ROWS = 4  # packed, of a step
EPOCHS = 2  # the first warms up, the others are timed


def measure(rounds: int) -> list[Result | Skipped]:
    """The row ``throughput``."""
    if not find_spec("transformers"):
        return [Skipped(row="throughput", reason="transformers, to compare with, is not installed.")]
    with tempfile.TemporaryDirectory() as folder:
        material = write_material([RECIPE], Path(folder))
        steps = -(-material.rows // ROWS)  # an epoch
        batch = -(-material.documents // steps)
        words = [
            RECIPE,
            f"training.per_device_train_batch_size={ROWS}",
            f"training.max_steps={EPOCHS * steps}",
            "logging.logging_steps=10",
            "evaluation.eval_strategy=no",
            "checkpoint.save_strategy=no",
            "~callbacks.samples",
        ]
        theirs = [folder, str(batch), str(EPOCHS * steps)]
        contestants = {
            "ours": lambda: _sample(train(words), material, steps),
            "Trainer": lambda: _sample(run_child(CHILDREN / "hf_trainer.py", theirs), material, steps),
        }
        found = run_rounds(contestants, rounds)
    rates = [Spread.of(column(found, name, "tokens_a_second")).median for name in contestants]
    return [
        Result(
            row="throughput",
            other="Trainer, padded",
            ours=f"{rates[0]:,.0f} tokens/s",
            theirs=f"{rates[1]:,.0f} tokens/s",
            figure=ratios(found, "ours", "Trainer", "tokens_a_second"),
            bar=Bar(value=2, sense=">=", unit="x"),
            about=_about(material, steps, batch),
            rounds=found,
        )
    ]


def _sample(report: dict[str, list[float]], material: Material, steps: int) -> Sample:
    """Whole epochs after the first, so that both have seen exactly the same tokens."""
    ends = report["step_ends"]
    assert len(ends) == EPOCHS * steps, f"{len(ends)} steps instead of {EPOCHS} epochs of {steps}"
    seconds = ends[-1] - ends[steps - 1]
    return {"tokens_a_second": (EPOCHS - 1) * material.tokens / seconds, "seconds": seconds}


def _about(material: Material, steps: int, batch: int) -> str:
    return (
        f"`train.py {RECIPE}` ({ROWS} packed rows a step) against the Trainer with a LlamaForCausalLM of the "
        f"same size on the same {material.documents} conversations ({material.tokens:,} tokens, the longest "
        f"{material.longest}), {batch} at a time, each batch padded to its longest, the loss over the full "
        f"vocabulary, the same targets; fused AdamW on both sides, {steps} steps an epoch, 2 threads, fp32; "
        "padding is not counted as tokens."
    )
