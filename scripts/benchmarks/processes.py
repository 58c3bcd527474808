"""Starting what is measured: fresh processes with a fixed number of threads, their figures read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "scripts" / "train.py"
CHILDREN = Path(__file__).parent / "children"
REPORT = "STOCKPOT_BENCHMARK_REPORT"  # names the file that a child writes its figures to


def environment(threads: int) -> dict[str, str]:
    """The variables of a child: ours to import, this many threads, compiled modules kept, no network."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_child(script: Path, arguments: Sequence[str], *, threads: int = 2, folder: Path | None = None) -> Any:
    """The report of a Python script run to its end in a process of its own.

    ``started`` is added to it: the moment before the process was made, on the clock that all processes share.
    """
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, str(script), *arguments]
        started = time.monotonic()
        done = subprocess.run(
            command,
            env=environment(threads) | {REPORT: str(report)},
            cwd=folder or scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not report.exists():
            raise RuntimeError(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return {**json.loads(report.read_text()), "started": started}


def train(words: Sequence[str], *, threads: int = 2) -> Any:
    """The report of a ``train.py`` with the clock plug-in, in a scratch run folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        clock = [f"plugins={CHILDREN / 'clock.py'}", "callbacks.clock={}"]
        return run_child(TRAIN, [*words, *clock, f"output_dir={folder}/run"], threads=threads)
