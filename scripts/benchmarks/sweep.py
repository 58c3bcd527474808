"""What sixteen jobs of a sweep cost, against sixteen runs that each tokenise their data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from scripts.benchmarks.measure import Sample, Spread, column, ratios, run_rounds
from scripts.benchmarks.processes import TRAIN, environment
from scripts.benchmarks.table import Bar, Result

JOBS = 16
WORDS = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "training.max_steps=2",
    "evaluation=none",
    "checkpoint=none",
    "callbacks.samples=null",
)
ABOUT = (
    "16 learning rates, each a training of 2 steps of the chat recipe's tiny preset, tokenizer and tokens "
    "made anew: one --multirun whose jobs share them, against 16 single runs that do not, less what sharing "
    "saves (15 times that by which a run with ready tokens is shorter than one without)."
)


def measure(rounds: int) -> list[Result]:
    """The row ``sweep``: seconds of the sweep over those of its runs without the shared work."""
    found = run_rounds({"sweep": _sweep, "single": _single_runs}, rounds)
    ours, theirs = (Spread.of(column(found, name, "seconds")).median for name in ("sweep", "single"))
    return [
        Result(
            row="sweep",
            other="16 single runs less the shared work",
            ours=f"{ours:.0f} s",
            theirs=f"{theirs:.0f} s",
            figure=ratios(found, "sweep", "single", "seconds"),
            bar=Bar(value=1.05, sense="<=", unit="x"),
            about=ABOUT,
            rounds=found,
        )
    ]


def _sweep() -> Sample:
    rates = ",".join(f"{number}e-4" for number in range(1, JOBS + 1))
    with tempfile.TemporaryDirectory() as folder:
        words = ["--multirun", *WORDS, f"optimizer.learning_rate={rates}", f"output_dir={folder}/sweep"]
        return {"seconds": _seconds(words, Path(folder) / "cache")}


def _single_runs() -> Sample:
    """Each run with a cache of its own, then a few with a warm one, which say what sharing saves."""
    with tempfile.TemporaryDirectory() as folder:
        run = partial(_single_run, Path(folder))
        cold = [run(number, cache=f"cache-{number}") for number in range(JOBS)]
        warm = [run(JOBS + number, cache="cache-0") for number in range(3)]
        saved = sum(cold) / len(cold) - sum(warm) / len(warm)
        return {"seconds": sum(cold) - (JOBS - 1) * saved}


def _single_run(folder: Path, number: int, cache: str) -> float:
    return _seconds([*WORDS, f"output_dir={folder / str(number)}"], folder / cache)


def _seconds(words: list[str], cache: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, str(TRAIN), *words],
        env={**environment(2), "STOCKPOT_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began
