"""One job of a sweep: a child process of the same command, followed while it runs."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trainer.interrupt import Interrupt
from trainer.run_folder import METRICS

SECONDS_BETWEEN = 0.1  # looks at a job that is running
SECONDS_TO_SAY = 5.0  # for the rest of a job's messages, which a process it left may keep open
_ROOT = str(Path(__file__).resolve().parents[2])
_PR_SET_PDEATHSIG = 1  # prctl(2)

# Told of each line of ``metrics.jsonl``; answers whether the job should be ended.
Watch = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended: its exit status (negative: the signal that killed it), and what was said last.

    ``pruned_at`` is the line at which it was not worth going on; ``stopped``: by a signal to the sweep.
    """

    status: int
    pruned_at: Mapping[str, Any] | None = None
    stopped: bool = False
    error: str | None = None


def run(
    words: Sequence[str],
    folder: Path,
    *,
    interrupt: Interrupt,
    watch: Watch | None = None,
    keep_open: Sequence[int] = (),
) -> Ended:
    """Run ``train.py`` with ``words`` in ``folder`` to its end, or until ``watch`` or a signal ends it.

    Either way it is asked to stop once, and saves. ``keep_open``: descriptors it holds as long as it lives.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command(words, folder),
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,  # a Ctrl-C reaches it through us, once
        pass_fds=keep_open,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )
    assert process.stderr is not None
    errors = _Errors(process.stderr)
    lines = Lines(folder / METRICS)
    pruned_at: Mapping[str, Any] | None = None
    asked = False
    try:
        while True:
            status = process.poll()
            if watch is not None and pruned_at is None:
                pruned_at = next(filter(watch, lines.new()), None)
            if status is not None:
                break
            if (pruned_at is not None or interrupt.signal_number) and not asked:
                errors.passes_on = pruned_at is None  # how to go on with it is of no use then
                process.terminate()
                asked = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_BETWEEN)
    finally:
        if process.poll() is None:  # a second Ctrl-C
            process.kill()
            process.wait()
        errors.join(SECONDS_TO_SAY)
    if pruned_at is not None or status == 0:
        return Ended(status=status, pruned_at=pruned_at)
    return Ended(status=status, stopped=asked, error=errors.last)


def finished(folder: Path, watch: Watch | None = None) -> Ended:
    """A job that came to its end before, looked at as if it were running."""
    lines = Lines(folder / METRICS).new()
    return Ended(status=0, pruned_at=None if watch is None else next(filter(watch, lines), None))


def command(words: Sequence[str], folder: Path) -> list[str]:
    """The same ``train.py`` as this process is of, as a program and its arguments."""
    return [sys.executable, "-P", "-m", "trainer", *words, f"output_dir={folder}"]


def _end_with_parent() -> None:
    """In the child before it begins: let it be stopped, after saving, when its parent is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Lines:
    """What is added to a file of JSON lines. A file put in its place is read from its beginning."""

    def __init__(self, path: Path):
        self.path = path
        self._file_number, self._offset = 0, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The whole lines since the last call."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            number = os.fstat(file.fileno()).st_ino
            if number != self._file_number:
                self._file_number, self._offset = number, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)


class _Errors(threading.Thread):
    """Passes a job's standard error on as it comes, and remembers the last line that says what is wrong."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(daemon=True)
        self.stream, self.last, self.passes_on = stream, "", True
        self.start()

    def run(self) -> None:
        with self.stream:
            for line in self.stream:
                text = line.decode(errors="replace")
                if self.passes_on:
                    sys.stderr.write(text)
                    sys.stderr.flush()
                said = text.strip().removeprefix("train.py: ")
                if said and not said.startswith("exit status "):
                    self.last = said
