"""``--multirun``: every job of a sweep in a child process and a folder of its own, then a ranked table.

Values are written in Hydra's grammar: ``a=1,2``, ``choice(...)``, ``range(...)``. All jobs are decoded before
the first starts; a job that fails ends alone. The ledger, ``sweep.jsonl``, has one line a finished job.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from conf import compose
from conf.errors import ConfigError
from trainer import run_folder
from trainer.checks import judged, without_foreign
from trainer.config import RunConfig
from trainer.reports import SPLITS
from trainer.secrets import redacted

LEDGER = "sweep.jsonl"


def sweep(words: Sequence[str], plugins: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run the product of all comma-separated values; ``output_dir`` is the parent of the jobs' folders.

    Returns the ledger's lines, best first. Raises ``ConfigError`` before the first job starts.
    """
    flags, overrides = compose.split(words)
    with compose.reworded():
        parsed = OverridesParser.create().parse_overrides(overrides)
    jobs = product(parsed)
    configs = _decoded_all([[*flags, *job] for job in jobs])
    if configs[0].check:
        raise ConfigError("check: it is for one run; leave it or --multirun out.")
    recipe = next((w.partition("=")[2] for w in jobs[0] if w.lstrip("+").startswith("recipe=")), "run")
    given = configs[0].output_dir
    parent = Path(given) if given else run_folder.default_path(f"sweep-{recipe}")
    if (parent / LEDGER).exists():
        raise ConfigError(f"output_dir: {str(parent)!r} holds a sweep already; choose another.")
    parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (job, config) in enumerate(zip(jobs, configs, strict=True)):
        own = [word for word in job if not word.lstrip("+").startswith("output_dir=")]
        print(f"job {number}: {' '.join(map(redacted, own))}", flush=True)
        whole = [*flags, *own, *(f"plugins={file}" for file in plugins)]
        lines.append(_run(number, whole, own, parent, config))
    ranked = rank(lines)
    print(f"{table(ranked)}\nsweep folder  {parent}", flush=True)
    return ranked


def _decoded_all(jobs: list[list[str]]) -> list[RunConfig]:
    """Every job's configuration; ``ConfigError`` with the problems of all of them, each once."""
    configs, problems = [], dict[str, None]()
    for words in jobs:
        try:
            configs.append(_decoded(words))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(problems)
    return configs


def _decoded(words: list[str]) -> RunConfig:
    composed = compose.compose(words)
    if composed is None:
        raise ConfigError("--multirun: it goes with recipes and values only; leave --help and --cfg out.")
    data, _ = without_foreign(composed.data, composed.given)
    return judged(data, composed.given)


def _run(
    number: int, words: list[str], overrides: list[str], parent: Path, config: RunConfig
) -> dict[str, Any]:
    """One job in a child process of the same command; returns its line of the ledger."""
    folder = parent / str(number)
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-P", "-m", "trainer", *words, f"output_dir={folder}"]
    status = subprocess.run(command, check=False, env=environment).returncode
    results = json.loads((folder / run_folder.RESULTS).read_text()) if status == 0 else {}
    if status == 0 and config.task != "train":
        results |= compared(config, results)
    said = [redacted(word) for word in overrides]
    line = {"job": number, "status": status, "overrides": said, "folder": str(folder), **results}
    with (parent / LEDGER).open("a") as ledger:
        ledger.write(json.dumps(line) + "\n")
    return line


def compared(config: RunConfig, results: Mapping[str, Any]) -> dict[str, Any]:
    """What a job without training is ranked by: what the recipe calls best, or else the loss.

    A training says that itself.
    """
    split, evaluation = SPLITS[config.task], config.evaluation
    wanted = f"{split}_{(evaluation.metric_for_best_model or 'loss').removeprefix('eval_')}"
    name = wanted if wanted in results else f"{split}_loss"
    greater = evaluation.greater_is_better if name == wanted else None
    if greater is None:
        greater = not name.endswith("loss")
    return {"metric_name": name, "metric": results[name], "greater_is_better": greater}


def product(overrides: list[Override]) -> list[list[str]]:
    """Every combination of the values, as words of a command line; ``ConfigError`` if it has no end."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(
                f"{key.lstrip('+')}: {override.input_line!r} has no end; give the values, as in a=1,2."
            )
    return [list(words) for words in itertools.product(*choices)]


def rank(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best first by the metric that the recipe compares; failed jobs last."""

    def order(line: dict[str, Any]) -> tuple[bool, float]:
        value = line.get("metric", math.nan)
        failed = line["status"] != 0 or not math.isfinite(value)
        return failed, 0.0 if failed else -value if line["greater_is_better"] else value

    return sorted(lines, key=order)


def table(lines: list[dict[str, Any]]) -> str:
    """The ranked jobs with what distinguishes them."""
    shared = set.intersection(*(set(line["overrides"]) for line in lines)) if len(lines) > 1 else set()
    rows = [
        (
            "rank",
            "job",
            next((line["metric_name"] for line in lines if "metric_name" in line), "metric"),
            "overrides",
        )
    ]
    for place, line in enumerate(lines, 1):
        value = f"{line['metric']:.6g}" if line["status"] == 0 else f"failed ({line['status']})"
        own = " ".join(word.lstrip("+") for word in line["overrides"] if word not in shared)
        rows.append((str(place), str(line["job"]), value, own))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows
    )
