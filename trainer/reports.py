"""The results of a split as people and programs read them: printed, and as ``{split}_results.json``.

Names, roundings and texts are the reference's (main_classes/trainer: ``log_metrics``, ``save_metrics``,
``metrics_format``). Torch is not imported.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ALL_RESULTS = "all_results.json"
SPLITS = {"train": "train", "evaluate": "eval", "predict": "test"}  # task -> how its results are named


def speed_metrics(
    split: str,
    start_time: float,
    num_samples: int | None = None,
    num_steps: int | None = None,
    num_tokens: int | None = None,
) -> dict[str, float]:
    """``{split}_runtime``: seconds since ``start_time`` (of ``time.time()``); and what was done in each."""
    runtime = time.time() - start_time
    result = {f"{split}_runtime": round(runtime, 4)}
    counts = {"samples": num_samples, "steps": num_steps, "tokens": num_tokens}
    for name, count in counts.items():
        if count is not None and runtime:
            result[f"{split}_{name}_per_second"] = round(count / runtime, 3)
    return result


def is_timing(name: str) -> bool:
    """Whether a value of that name depends on the clock or the machine, and differs between equal runs."""
    return name.endswith(("_runtime", "_per_second", "_utilization")) or "_mem_" in name


def metrics_format(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics to be read: bytes as MB, seconds as h:mm:ss.cc, operations as GF, other floats in 4 places."""
    return {name: _readable(name, value) for name, value in metrics.items()}


def log_metrics(split: str, metrics: Mapping[str, Any], *, is_main: bool = True) -> None:
    """Print metrics as a small table; only the main process speaks."""
    if not is_main:
        return
    print(f"***** {split} metrics *****")
    texts = {name: str(value) for name, value in metrics_format(metrics).items()}
    name_width = max(map(len, texts), default=0)
    value_width = max(map(len, texts.values()), default=0)
    for name, text in sorted(texts.items()):
        print(f"  {name:<{name_width}} = {text:>{value_width}}")


def table(lines: Sequence[tuple[str, str]]) -> str:
    """Names and texts, one pair a line, the texts below each other."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def save_metrics(folder: Path, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
    """Write ``{split}_results.json``, unformatted, and unless not ``combined`` add to ``all_results.json``.

    The main process calls it. Each file is replaced at once; NaN and infinity are written as they are.
    """
    _replace(folder / f"{split}_results.json", metrics)
    if combined:
        path = folder / ALL_RESULTS
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        _replace(path, {**before, **metrics})


def _readable(name: str, value: Any) -> Any:
    if "_mem_" in name:
        return f"{value >> 20}MB"
    if "_runtime" in name:
        return f"{datetime.timedelta(seconds=int(value))}.{int(value % 1 * 100):02d}"
    if name == "total_flos":
        return f"{int(value) >> 30}GF"
    return round(value, 4) if isinstance(value, float) else value


def _replace(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.new")
    with staged.open("w", encoding="utf-8") as file:
        json.dump(dict(values), file, indent=4, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
