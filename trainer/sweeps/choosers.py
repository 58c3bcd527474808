"""Which job comes next: all of a grid in order, or what a search asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from trainer.sweeps.jobs import Watch
from trainer.sweeps.space import Space, Value

Lines = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that is to run: its number, and the values it differs from the others in, by key."""

    number: int
    values: Mapping[str, Value]


class Chooser(Protocol):
    """Gives jobs one at a time; what came of one is told before the next is asked for."""

    def jobs(self, done: Lines) -> Iterator[Job]:
        """Those that are still to run; ``done`` are the ledger's lines at the start."""
        ...

    def watch(self, job: Job) -> Watch | None:
        """What looks at the lines of a job that runs; None where nothing does."""
        ...

    def tell(self, line: Mapping[str, Any]) -> None:
        """What came of a job: its line of the ledger."""
        ...


class Grid:
    """Every combination of the values, in the order of the command line."""

    def __init__(self, space: Space):
        self.all = [Job(number=number, values=values) for number, values in enumerate(space.grid())]

    def jobs(self, done: Lines) -> Iterator[Job]:
        """One that failed for another reason than its values is tried again."""
        return (job for job in self.all if job.number not in done or is_to_be_repeated(done[job.number]))

    def watch(self, job: Job) -> Watch | None:
        return None

    def tell(self, line: Mapping[str, Any]) -> None:
        """A grid is what it is."""


def is_to_be_repeated(line: Mapping[str, Any]) -> bool:
    """Whether a job failed, and not because its loss was not finite (exit status 3): that it would again."""
    return line["status"] not in (0, 3, "pruned")
