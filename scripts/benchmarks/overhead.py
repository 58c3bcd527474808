"""Milliseconds that our loop adds to a step of a tiny model."""

from __future__ import annotations

from scripts.benchmarks.measure import Round, Spread, column, differences
from scripts.benchmarks.processes import CHILDREN, run_child
from scripts.benchmarks.table import Bar, Result

STEPS = 100  # of a block; the two loops take turns, block by block
WORDS = (
    "+recipe=pretrain_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=64",
    "training.max_steps=1000000",
    "optimizer.learning_rate=1e-3",
    "optimizer.weight_decay=0",
    "logging.logging_steps=10",
    "evaluation.eval_strategy=no",
    "checkpoint.save_strategy=no",
    "~callbacks.samples",
    "output_dir=run",
)
ABOUT = (
    "the whole Run of `train.py +recipe=pretrain_llama` (preset tiny, 4 packed rows of 64 tokens, 1 thread) "
    "against a hand-written loop over a copy of its model: our head, fused AdamW, clipping, the same "
    "schedule, loss.item() each step, a log line every 10 steps, batches ready-made; both end with "
    "bit-identical weights."
)


def measure(rounds: int, steps: int = STEPS) -> list[Result]:
    """The row ``overhead``."""
    found = run_child(CHILDREN / "overhead.py", [str(steps), str(rounds), *WORDS], threads=1)
    pairs = [Round(**each) for each in found["rounds"]]
    ours, theirs = (Spread.of(column(pairs, name, "milliseconds")).median for name in ("ours", "theirs"))
    return [
        Result(
            row="overhead",
            other="hand-written loop",
            ours=f"{ours:.3f} ms",
            theirs=f"{theirs:.3f} ms",
            figure=differences(pairs, "ours", "theirs", "milliseconds"),
            bar=Bar(value=0.3, sense="<=", unit="ms a step"),
            about=ABOUT,
            rounds=pairs,
        )
    ]
