"""Which folder this run is, whether it goes on from a checkpoint, and whether it may.

Decided once, by rank 0, before anything is written. Torch is not imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from conf.decode import leaves
from conf.errors import CheckpointError, ConfigError
from trainer.manifest import clean_leftovers, verify
from trainer.retention import Checkpoint, checkpoints, newest_valid

CONFIG = "config.yaml"
PLAN = "plan.yaml"
METRICS = "metrics.jsonl"
RESULTS = "all_results.json"

# A resumed run is the same run: these may not differ from what was saved. The arithmetic of the batch is
# compared as one number, the rows of a step.
FIXED = (
    "model",
    "processor",
    "data",
    "objective",
    "optimizer.name",
    "averaging.name",
    "training.frozen_parameters",
    "training.unfrozen_parameters",
    "training.seed",
    "training.data_seed",
)
FREE = ("data.cache_dir", "data.dataloader_", "data.max_truncated", "data.check_rows")
# What only says how this start was asked for, and is no part of what the run is.
PASSING = ("output_dir", "resume", "check", "show", "task")
UNCOMPARED = (*PASSING, "hub", "data.test", "sweep")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The folder of a run and the checkpoint it goes on from, if any; ``notes`` are sentences to be said."""

    path: Path
    checkpoint: Path | None = None
    step: int = 0
    notes: tuple[str, ...] = ()


def default_path(recipe: str | None, now: datetime | None = None) -> Path:
    """``runs/<recipe>/<date>-<time>``, a fresh one if that is taken."""
    stem = Path("runs") / (recipe or "run") / (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    candidates = (stem if i == 0 else stem.with_name(f"{stem.name}-{i}") for i in range(10**6))
    return next(path for path in candidates if not path.exists())


def results_path(output_dir: str | None, recipe: str | None) -> Path:
    """The folder that was asked for, or a fresh one; ``ConfigError`` where a file has its name."""
    path = default_path(recipe) if output_dir is None else Path(output_dir)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"output_dir: {str(path)!r} is a file; choose a folder.")
    return path


def find(output_dir: str | None, resume: str | None, recipe: str | None) -> RunFolder:
    """Choose the folder; raises ``ConfigError`` or ``CheckpointError`` and writes nothing.

    ``resume`` is None, ``auto`` (the newest valid checkpoint of ``output_dir``), or a checkpoint's path.
    """
    if resume is None:
        return _fresh(output_dir, recipe)
    if resume == "auto":
        if output_dir is None:
            raise ConfigError("resume: 'auto' needs the run's folder; give output_dir=RUN as well.")
        return _newest(results_path(output_dir, recipe))
    path = Path(resume)
    if not path.is_dir():
        raise ConfigError(
            f"resume: there is no folder {resume!r}; give a checkpoint's, or `auto` with output_dir."
        )
    if checkpoints(path):
        raise ConfigError(
            f"resume: {resume!r} is a run, not a checkpoint; give output_dir={resume} resume=auto."
        )
    if output_dir is not None and Path(output_dir).resolve() != path.resolve().parent:
        raise ConfigError(
            f"output_dir: {output_dir!r} is not the run that {resume!r} belongs to; leave it out, or start "
            f"a new run from those weights with model.path={resume}."
        )
    step = verify(path).about.get("step")
    if step is None:
        raise CheckpointError(f"{path}: its manifest names no step; it is not a training checkpoint.")
    return RunFolder(path=path.parent, checkpoint=path, step=int(step))


def resumable(output_dir: str | None, resume: str) -> RunFolder:
    """The run and the checkpoint to go on from, where they must say the configuration as well."""
    folder = find(output_dir, resume, None)
    if folder.checkpoint is None:
        raise ConfigError(
            f"resume: {folder.path} has no checkpoint to take a configuration from; name a recipe."
        )
    return folder


def _fresh(output_dir: str | None, recipe: str | None) -> RunFolder:
    path = results_path(output_dir, recipe)
    if (path / CONFIG).exists() or checkpoints(path):
        raise ConfigError(
            f"output_dir: {str(path)!r} holds a run already; add resume=auto to go on with it, or choose "
            "another."
        )
    return RunFolder(path=path)


def _newest(path: Path) -> RunFolder:
    skipped: list[str] = []
    newest = newest_valid(path, skipped.append)
    if newest is None and skipped:
        raise CheckpointError(f"{path} has no valid checkpoint: {' '.join(skipped)}")
    if newest is None:
        return RunFolder(path=path, notes=(f"{path} has no checkpoint yet: this is a fresh start.",))
    return RunFolder(path=path, checkpoint=newest.path, step=newest.step, notes=tuple(skipped))


def saved_config(folder: RunFolder) -> dict[str, Any]:
    """The configuration that the checkpoint was trained with, as plain data."""
    assert folder.checkpoint is not None
    return yaml.safe_load((folder.checkpoint / "training" / CONFIG).read_text())


def overlay(saved: dict[str, Any], composed: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The saved configuration with what was typed on the command line on top.

    What only said how that run was started, its folder first of all, is left out: a run may have been moved.
    """
    result = {key: value for key, value in saved.items() if key not in PASSING}
    for path, where in given.items():
        if where != "command line":
            continue
        *sections, leaf = path.split(".")
        source: Any = composed
        target = result
        for name in sections:
            source, target = source.get(name, {}), target.setdefault(name, {})
        if leaf in source:
            target[leaf] = source[leaf]
        else:  # taken away, as in ~callbacks.samples
            target.pop(leaf, None)
    return result


def saved_state(folder: RunFolder) -> dict[str, Any]:
    """``training/state.json`` of the checkpoint; ``CheckpointError`` for one that holds the model only."""
    path = folder.checkpoint
    assert path is not None
    try:
        return json.loads((path / "training" / "state.json").read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: it was written with save_only_model and holds no state to resume; start a new run "
            f"from its weights with model.path={path}."
        ) from None


def saved_plugins(folder: RunFolder) -> dict[str, str]:
    """The plug-ins that the run was planned with, by name; none where there is no plan."""
    plan = folder.path / PLAN
    return yaml.safe_load(plan.read_text()).get("plugins", {}) if plan.exists() else {}


def compare_with(folder: RunFolder, now: Mapping[str, Any], rows_per_step: int) -> list[str]:
    """``compare`` with what the folder's checkpoint was trained with."""
    rows_before = saved_state(folder)["rows_per_step"]
    return compare(saved_config(folder), now, rows_before=rows_before, rows_now=rows_per_step)


def compare(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, rows_before: int, rows_now: int
) -> list[str]:
    """Sentences on what differs and may; ``ConfigError`` on what differs and may not."""
    before, after = dict(leaves(saved)), dict(leaves(now))
    wrong, notes = [], []
    for path in sorted(before.keys() | after.keys()):
        was, is_now = before.get(path) or None, after.get(path) or None  # an empty section is as good as none
        if was == is_now or any(f"{path}.".startswith(f"{name}.") for name in UNCOMPARED):
            continue
        if path.startswith(FIXED) and not path.startswith(FREE):
            wrong.append(
                f"{path}: the checkpoint was trained with {before.get(path)!r}, {after.get(path)!r} was "
                "given; a resumed run is the same run: leave it out, or start a new one with model.path=."
            )
        else:
            notes.append(f"{path} is now {after.get(path)!r}; it was {before.get(path)!r}.")
    if rows_before != rows_now:
        wrong.append(
            f"training: a step had {rows_before} rows (per-device batch x accumulation x ranks) and has "
            f"{rows_now} now; choose them so that it stays the same."
        )
    if wrong:
        raise ConfigError(wrong)
    return notes


def open_folder(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Make the folder ready: remove half-written things, set aside what comes after the checkpoint."""
    folder.path.mkdir(parents=True, exist_ok=True)
    for leftover in clean_leftovers(folder.path):
        say(f"removed {leftover.name}, which an interrupted run left behind.")
    later = [c for c in checkpoints(folder.path) if folder.checkpoint is not None and c.step > folder.step]
    for checkpoint in later:
        say(f"set aside {_set_aside(checkpoint)}, which is later than where this run goes on.")


def write(folder: RunFolder, config: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """``config.yaml`` and ``plan.yaml`` of the run, as it goes on now."""
    for name, content in ((CONFIG, config), (PLAN, plan)):
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        (folder.path / name).write_text(text, encoding="utf-8")


def _set_aside(checkpoint: Checkpoint) -> str:
    for number in range(1, 10**6):
        target = checkpoint.path.with_name(f"set-aside-{checkpoint.path.name}-{number}")
        if not target.exists():
            os.rename(checkpoint.path, target)
            return target.name
    raise AssertionError("a million folders set aside")
