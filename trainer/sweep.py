"""``--multirun``: every job of a sweep in a child process and a folder of its own, and a ranked table at the end.

A plug-in of Hydra, so that its grammar (``a=1,2``, ``choice(...)``, ``range(...)``) is understood. All jobs are
decoded before the first starts; a job that fails ends alone. The ledger, ``sweep.jsonl``, has one line a
finished job.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from conf.decode import decode
from conf.errors import ConfigError
from trainer import run_folder
from trainer.arguments import HOMES
from trainer.config import RunConfig

LEDGER = "sweep.jsonl"


class Sweeper(HydraSweeper):
    """The product of all comma-separated values; ``output_dir`` is the parent of the jobs' folders."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader = hydra_context.config_loader
        self.config = config

    def sweep(self, arguments: list[str]) -> list[dict[str, Any]]:
        """Run every job; returns their ledger lines, best first. Raises ``ConfigError`` before the first starts."""
        jobs = product(OverridesParser.create(config_loader=self.loader).parse_overrides(arguments))
        configs = [self._decode(job) for job in jobs]
        recipe = next((w.partition("=")[2] for w in arguments if w.lstrip("+").startswith("recipe=")), None)
        given = configs[0].output_dir
        parent = Path(given) if given else run_folder.default_path(f"sweep-{recipe or 'run'}")
        if (parent / LEDGER).exists():
            raise ConfigError(f"output_dir: {str(parent)!r} holds a sweep already; choose another.")
        parent.mkdir(parents=True, exist_ok=True)
        lines = [self._run(number, job, parent) for number, job in enumerate(jobs)]
        ranked = rank(lines)
        print(table(ranked))
        print(f"sweep folder  {parent}", flush=True)
        return ranked

    def _decode(self, job: list[str]) -> RunConfig:
        composed = self.loader.load_sweep_config(self.config, job)
        data = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(data, dict)
        data.pop("hydra", None)
        return decode(RunConfig, data, homes=HOMES)

    def _run(self, number: int, job: list[str], parent: Path) -> dict[str, Any]:
        """One job in a child process of the same command; its line for the ledger."""
        folder = parent / str(number)
        words = [word for word in job if not word.lstrip("+").startswith("output_dir=")]
        print(f"job {number}: {' '.join(word.lstrip('+') for word in words)}", flush=True)
        plugins = [word for word in sys.orig_argv if word.startswith("plugins=")]
        flags = _flags(sys.argv[1:])
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-P", "-m", "trainer", *flags, *words, *plugins, f"output_dir={folder}"]
        status = subprocess.run(command, check=False, env=environment).returncode
        results = json.loads((folder / run_folder.RESULTS).read_text()) if status == 0 else {}
        line = {"job": number, "status": status, "overrides": words, "folder": str(folder), **results}
        with (parent / LEDGER).open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        return line


def product(overrides: list[Override]) -> list[list[str]]:
    """Every combination of the values, as words of a command line; ``ConfigError`` for a sweep without an end."""
    choices = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices.append([f"{key}={override.get_value_element_as_str()}"])
        elif override.is_discrete_sweep():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise ConfigError(f"{key.lstrip('+')}: {override.input_line!r} has no end; give the values, as in a=1,2.")
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
    rows = [("rank", "job", next((line["metric_name"] for line in lines if "metric_name" in line), "metric"), "overrides")]
    for place, line in enumerate(lines, 1):
        value = f"{line['metric']:.6g}" if line["status"] == 0 else f"failed ({line['status']})"
        own = " ".join(word.lstrip("+") for word in line["overrides"] if word not in shared)
        rows.append((str(place), str(line["job"]), value, own))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows)


def _flags(words: list[str]) -> list[str]:
    """The flags that a job needs as well: where its recipe is found."""
    flags = []
    for i, word in enumerate(words):
        if word in ("--config-dir", "-cd"):
            flags += [word, words[i + 1]]
        elif word.startswith("--config-dir="):
            flags.append(word)
    return flags
