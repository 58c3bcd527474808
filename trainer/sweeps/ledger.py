"""What a sweep was asked to do and what came of each job, on disk so that a killed sweep can go on.

``sweep.yaml`` says what was asked for and does not change. ``sweep.jsonl`` has one line a job that ended; a
line is flushed to the disk as a whole, and what a kill left of one is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from conf.decode import leaves
from conf.errors import CheckpointError, ConfigError

LEDGER = "sweep.jsonl"
REQUEST = "sweep.yaml"
SECONDS_TO_WAIT = 30.0  # for the last job of a sweep that was killed, which saves and ends


class Ledger:
    """The lines of a sweep's folder; ``lines`` maps a job's number to its last one.

    While it is open no other sweep can open it, nor while a job lives that was given ``descriptor``.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any], *, resume: bool):
        """Begin a sweep in ``folder``, or with ``resume`` go on with the one that it holds, if any.

        Raises ``ConfigError`` where it holds another sweep, or one that is running.
        """
        self.folder = folder
        path = folder / LEDGER
        if path.exists() and not resume:
            raise ConfigError(
                f"output_dir: {str(folder)!r} holds a sweep already; add resume=auto to go on with it, or "
                "choose another."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            self._lock()
            self.lines = {int(line["job"]): line for line in self._read(path)}
            self._compare(request)
        except BaseException:
            self._file.close()
            raise

    @property
    def descriptor(self) -> int:
        """The open file that a job keeps open, so that nobody goes on with the sweep beside it."""
        return self._file.fileno()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a job's line, and return when it is on the disk."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines[int(line["job"])] = dict(line)

    def close(self) -> None:
        self._file.close()

    def _lock(self) -> None:
        """Hold the file alone. The lock is the open file's, and so that of the jobs which were given it."""
        until = time.monotonic() + SECONDS_TO_WAIT
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"output_dir: a sweep, or a job that it left, still works in {str(self.folder)!r}; "
                        "wait for it to end."
                    ) from None
            time.sleep(0.1)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        drop_torn_line(path)
        lines = []
        for number, text in enumerate(path.read_bytes().splitlines(), 1):
            try:
                line = json.loads(text)
                assert {"job", "status", "overrides"} <= line.keys()
            except (ValueError, AttributeError, AssertionError):
                raise CheckpointError(f"{path}:{number}: this line is no job of a sweep.") from None
            lines.append(line)
        return lines

    def _compare(self, request: Mapping[str, Any]) -> None:
        """Write what was asked for; ``ConfigError`` where something else was."""
        path = self.folder / REQUEST
        if not path.exists():
            if self.lines:
                raise CheckpointError(f"{self.folder}: there is a {LEDGER} without its {REQUEST}.")
            staged = path.with_name(f"{REQUEST}.new")
            staged.write_text(yaml.safe_dump(dict(request), sort_keys=False, allow_unicode=True))
            staged.replace(path)
            return
        before, now = dict(leaves(yaml.safe_load(path.read_text()))), dict(leaves(dict(request)))
        problems = [
            f"output_dir: the sweep in {str(self.folder)!r} was started with {name.removeprefix('jobs.')} "
            f"{before.get(name)!r}, and {now.get(name)!r} is given now; give the same command line, or "
            "choose another folder."
            for name in (before | now)
            if before.get(name) != now.get(name)
        ]
        if problems:
            raise ConfigError(problems)


def drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of a last line, so that the next begins a line of its own."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
