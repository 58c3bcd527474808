"""Time and memory that a model takes to load, against the reference's ``from_pretrained``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec

from scripts.benchmarks.measure import Sample, Spread, column, ratios, run_rounds
from scripts.benchmarks.processes import CHILDREN, ROOT, environment, run_child
from scripts.benchmarks.table import Bar, Result, Skipped

CASES = ("bf16", "fp32, shards", "bf16 to fp32", "experts")  # of the child
ABOUT = (
    "from_pretrained of about 1 GB in the page cache (a Llama, and an AFMoE with its experts one by one in "
    "the files) until each page of the weights has been written to, as the first update does: the reference "
    "maps files whose type is kept, and copies each page then. Memory is the rise of the peak resident size "
    "over the weights' size."
)


def measure(rounds: int) -> list[Result | Skipped]:
    """The rows ``load``: ratios of times, and our peak over the weights' size."""
    if not find_spec("transformers"):
        return [Skipped(row="load", reason="transformers, to compare with, is not installed.")]
    results: list[Result | Skipped] = []
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, str(CHILDREN / "load.py"), "make", folder]
        subprocess.run(make, env=environment(2), cwd=ROOT, check=True)
        for case in CASES:
            results += _compare(folder, case, rounds)
    return results


def _compare(folder: str, case: str, rounds: int) -> list[Result | Skipped]:
    found = run_rounds({who: partial(_run, who, folder, case) for who in ("ours", "theirs")}, rounds)
    times, peaks = (
        [Spread.of(column(found, who, key)) for who in ("ours", "theirs")]
        for key in ("seconds", "peak_over_size")
    )
    return [
        Result(
            row="load",
            other=f"{case}: time",
            ours=f"{times[0].median:.2f} s",
            theirs=f"{times[1].median:.2f} s",
            figure=ratios(found, "ours", "theirs", "seconds"),
            bar=Bar(value=1.05, sense="<=", unit="x"),
            about=ABOUT,
            rounds=found,
        ),
        Result(
            row="load",
            other=f"{case}: memory",
            ours=f"{peaks[0].median:.2f} x",
            theirs=f"{peaks[1].median:.2f} x",
            figure=peaks[0],
            bar=Bar(value=1.1, sense="<=", unit="x the weights"),
            about=ABOUT,
            rounds=found,
        ),
    ]


def _run(who: str, folder: str, case: str) -> Sample:
    report: Sample = run_child(CHILDREN / "load.py", [who, folder, case])
    return report
