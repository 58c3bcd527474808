"""What the framework costs and gains, measured against a bare loop and against ``transformers``.

Each comparison is made in pairs that take turns, with the load of other processes watched; the table shows
the median of the ratios (or differences) within pairs. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from scripts.benchmarks import (  # noqa: E402
    cli,
    galore,
    head,
    load,
    overhead,
    packing,
    start,
    sweep,
    throughput,
)
from scripts.benchmarks.table import Result, Skipped, render  # noqa: E402

Measure = Callable[[int], Sequence[Result | Skipped]]
ROWS: dict[str, tuple[Measure, int]] = {  # name -> how it is measured, and in how many rounds
    "overhead": (overhead.measure, 60),
    "start": (start.measure_start, 9),
    "memory": (start.measure_memory, 9),
    "head": (head.measure, 5),
    "load": (load.measure, 5),
    "throughput": (throughput.measure, 3),
    "packing": (packing.measure, 5),
    "galore": (galore.measure, 2),
    "sweep": (sweep.measure, 1),
    "cli": (cli.measure, 9),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are named and print their table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(ROWS)}; all when none is named")
    parser.add_argument(
        "--pairs", type=int, metavar="N", help="rounds of each comparison (each row has its own default)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw number there")
    options = parser.parse_args(arguments)
    if unknown := set(options.rows) - ROWS.keys():
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if options.pairs is not None and options.pairs < 1:
        parser.error("--pairs: at least 1 is wanted")
    outcomes: list[Result | Skipped] = []
    for name in options.rows or ROWS:
        measure, rounds = ROWS[name]
        print(f"measuring {name} ...", file=sys.stderr)
        outcomes += measure(options.pairs or rounds)
    print(render(outcomes))
    if options.json:
        document = {"machine": machine(), "results": [outcome.to_dict() for outcome in outcomes]}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, object]:
    """Where the figures come from."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in ("torch", "numpy", "accelerate", "transformers")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
