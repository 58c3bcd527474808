"""Peak memory and time of the chunked head for a large vocabulary, against the full logits."""

from __future__ import annotations

from functools import partial

from scripts.benchmarks.measure import Sample, Spread, column, ratios, run_rounds
from scripts.benchmarks.processes import CHILDREN, run_child
from scripts.benchmarks.table import Bar, Result

REPEATS = 3  # timed passes of one process
ABOUT = (
    "vocabulary 128,256, hidden 256, 2,048 tokens, fp32, 2 threads: forward and backward of our chunked "
    "linear + cross-entropy against F.linear and F.cross_entropy; memory is the rise of the peak resident "
    "size."
)


def measure(rounds: int) -> list[Result]:
    """The row ``head``: how many times less memory, and the ratio of times."""
    contestants = {kind: partial(_run, kind) for kind in ("chunked", "full")}
    found = run_rounds(contestants, rounds)
    peaks = [Spread.of(column(found, kind, "peak_bytes")).median / 1e6 for kind in contestants]
    times = [Spread.of(column(found, kind, "seconds")).median for kind in contestants]
    return [
        Result(
            row="head",
            other="full logits: memory",
            ours=f"{peaks[0]:.0f} MB",
            theirs=f"{peaks[1]:.0f} MB",
            figure=ratios(found, "full", "chunked", "peak_bytes"),
            bar=Bar(value=6, sense=">=", unit="x less"),
            about=ABOUT,
            rounds=found,
        ),
        Result(
            row="head",
            other="full logits: time",
            ours=f"{times[0]:.2f} s",
            theirs=f"{times[1]:.2f} s",
            figure=ratios(found, "chunked", "full", "seconds"),
            bar=Bar(value=1.05, sense="<=", unit="x"),
            about=ABOUT,
            rounds=found,
        ),
    ]


def _run(kind: str) -> Sample:
    report: Sample = run_child(CHILDREN / "head.py", [kind, str(REPEATS)])
    return report
