"""Memory of training with GaLore's projected gradients, against AdamW."""

from __future__ import annotations

from functools import partial

from scripts.benchmarks.measure import Sample, Spread, column, ratios, run_rounds
from scripts.benchmarks.processes import CHILDREN, run_child
from scripts.benchmarks.table import Bar, Result

NAMES = ("adamw_torch", "galore_adamw", "galore_adamw_layerwise", "galore_adamw_8bit")
ABOUT = (
    "a Llama of 68 million parameters (hidden 1,024, 4 layers, vocabulary 8,192), fp32, rank 128 on all "
    "linear layers, three updates: bytes of the optimizer's state, and the rise of the peak resident size "
    "from the built model on (gradients, state and what a step needs)."
)


def measure(rounds: int) -> list[Result]:
    """The rows ``galore``: how many times less state, and less memory at the peak, than AdamW."""
    found = run_rounds({name: partial(_run, name) for name in NAMES}, rounds)
    results = []
    for name in NAMES[1:]:
        for what, key, bar in (("state", "state_bytes", 2.0), ("peak", "peak_bytes", 1.2)):
            ours, theirs = (Spread.of(column(found, each, key)).median / 1e6 for each in (name, NAMES[0]))
            results.append(
                Result(
                    row=name,
                    other=f"AdamW: {what}",
                    ours=f"{ours:.0f} MB",
                    theirs=f"{theirs:.0f} MB",
                    figure=ratios(found, NAMES[0], name, key),
                    bar=Bar(value=bar, sense=">=", unit="x less"),
                    about=ABOUT,
                    rounds=found,
                )
            )
    return results


def _run(name: str) -> Sample:
    report: Sample = run_child(CHILDREN / "optimizer.py", [name])
    return report
