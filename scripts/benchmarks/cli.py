"""How fast the command answers when there is nothing to train, and that it does so without torch."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from scripts.benchmarks.measure import Sample, Spread, column, run_rounds
from scripts.benchmarks.processes import ROOT, TRAIN, environment
from scripts.benchmarks.table import Bar, Result

COMMANDS = {  # name -> words, and the status that they end with
    "--help": (["--help"], 0),
    "--cfg job": (["+recipe=sft_llama", "--cfg", "job"], 0),
    "a mistyped key": (["+recipe=sft_llama", "training.max_step=1"], 2),
    "list of recipes": ([], 0),
}
BAR = Bar(value=0.6, sense="<=", unit="s")


def measure(rounds: int) -> list[Result]:
    """The row ``cli``."""
    importing = [name for name in COMMANDS if _imports_torch(name)]  # this warms the caches, too
    found = run_rounds({name: partial(_run, name) for name in COMMANDS}, rounds)
    times = {name: Spread.of(column(found, name, "seconds")) for name in COMMANDS}
    results = [
        Result(row="cli", other=name, figure=spread, bar=BAR, rounds=found) for name, spread in times.items()
    ]
    number = Spread.of([len(importing)])
    none = Bar(value=0, sense="<=", unit="of them")
    return [*results, Result(row="cli", other="imports torch", figure=number, bar=none)]


def _run(name: str) -> Sample:
    began = time.perf_counter()
    _train(name, [])
    return {"seconds": time.perf_counter() - began}


def _imports_torch(name: str) -> bool:
    imported = {line.rpartition("|")[2].strip() for line in _train(name, ["-X", "importtime"]).splitlines()}
    assert "conf.compose" in imported, f"train.py {name}: the list of imports is not what it was taken for"
    return "torch" in imported


def _train(name: str, options: list[str]) -> str:
    """Run ``train.py`` with these options of Python's; returns its standard error."""
    words, status = COMMANDS[name]
    command = [sys.executable, *options, str(TRAIN), *words]
    done = subprocess.run(command, env=environment(2), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != status:
        raise RuntimeError(f"train.py {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stderr
