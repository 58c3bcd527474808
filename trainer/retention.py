"""Which checkpoints a run folder has, which of them is resumed, and which are deleted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from conf.errors import CheckpointError
from trainer.manifest import remove, verify

_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A folder named ``checkpoint-<step>``; nothing is said of its content."""

    step: int
    path: Path


def checkpoints(run_dir: Path) -> list[Checkpoint]:
    """The checkpoints of a run folder by rising step; none if the folder does not exist."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in run_dir.iterdir() if path.is_dir())
    found = [Checkpoint(step=int(match[1]), path=path) for match, path in named if match]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_valid(run_dir: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose every byte fits its manifest; each newer one is reported and skipped."""
    for checkpoint in reversed(checkpoints(run_dir)):
        try:
            verify(checkpoint.path)
        except CheckpointError as error:
            report(f"{checkpoint.path.name} is skipped: {error}")
        else:
            return checkpoint
    return None


def retain(
    run_dir: Path, *, limit: int, keep: Collection[Path] = (), written: Collection[Path] = ()
) -> list[Checkpoint]:
    """Delete what is older than the newest ``limit`` valid checkpoints, but for those in ``keep``.

    Damaged ones do not count, and grow old like the others. Nothing is deleted before one of those that stay
    was found valid byte by byte; ``written`` names checkpoints that this process published itself, which
    spares reading them again (sizes are enough then, as they are for all others). Returns what was deleted.
    """
    assert limit >= 1, "a run keeps at least one checkpoint"
    kept = {Path(path).resolve() for path in keep}
    trusted = {Path(path).resolve() for path in written}
    found = checkpoints(run_dir)
    num_valid = 0
    while found and num_valid < limit:
        candidate = found.pop().path
        num_valid += _is_valid(candidate, full=num_valid == 0 and candidate.resolve() not in trusted)
    old = [checkpoint for checkpoint in found if checkpoint.path.resolve() not in kept]
    for checkpoint in old:
        remove(checkpoint.path)
    return old


def _is_valid(path: Path, *, full: bool) -> bool:
    try:
        verify(path, full=full)
    except CheckpointError:
        return False
    return True
