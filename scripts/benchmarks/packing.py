"""Documents a second that are packed, and how full the rows are."""

from __future__ import annotations

import time
from functools import partial
from statistics import median

import numpy as np

from scripts.benchmarks.measure import Sample, Spread, column, run_rounds
from scripts.benchmarks.table import Bar, Result
from trainer.data.packing import pack

DOCUMENTS, CAPACITY = 1_000_000, 2_048
REPEATS = 9  # of one round, so that it lasts long enough for the load of others to be seen


def measure(rounds: int, documents: int = DOCUMENTS) -> list[Result]:
    """The row ``packing``."""
    drawn = np.random.default_rng(0).lognormal(5.5, 0.8, documents)
    lengths = np.clip(drawn, 8, CAPACITY).astype(np.int32)
    about = (
        f"{documents:,} documents, log of lengths normal(5.5, 0.8), 8 to {CAPACITY:,} tokens, "
        f"rows of {CAPACITY:,} tokens."
    )
    found = run_rounds({"ours": partial(_run, lengths)}, rounds)
    speeds, fills = (
        Spread.of(column(found, "ours", name)) for name in ("documents_a_second", "fill_percent")
    )
    rate, full = (
        Bar(value=500_000, sense=">=", unit="documents/s"),
        Bar(value=99.9, sense=">=", unit="% full"),
    )
    return [
        Result(row="packing", other="-", figure=speeds, bar=rate, about=about, rounds=found),
        Result(row="packing", other="-", figure=fills, bar=full, about=about, rounds=found),
    ]


def _run(lengths: np.ndarray) -> Sample:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        rows = pack(lengths, CAPACITY)
        seconds.append(time.perf_counter() - began)
    return {"documents_a_second": len(lengths) / median(seconds), "fill_percent": 100 * rows.efficiency}
