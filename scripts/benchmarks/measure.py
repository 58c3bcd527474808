"""Paired runs on a machine that others may use too, and statistics of what they gave."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

FOREIGN_LIMIT = 0.05  # cores that other processes may use while something is timed

Sample = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of each contestant, one right after the other, and the load that others caused meanwhile."""

    samples: Mapping[str, Sample]
    foreign_cores: float

    @property
    def is_noisy(self) -> bool:
        return self.foreign_cores > FOREIGN_LIMIT


class ForeignLoad:
    """Cores used by processes other than this one and its children, since this was made.

    All busy time of the machine, time taken away by its host included, less what this process and those of
    its children that have ended used. The kernel counts the former in ticks of 10 ms a core, so that windows
    shorter than a second say little.
    """

    def __init__(self) -> None:
        self._started = _clocks()

    def cores(self) -> float:
        wall, busy, own = (now - then for now, then in zip(_clocks(), self._started, strict=True))
        return max(0.0, (busy - own) / wall)


def _clocks() -> tuple[float, float, float]:
    """Seconds of the wall clock, of all cores being busy, and of our own use of them."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own


def run_rounds(
    contestants: Mapping[str, Callable[[], Sample]],
    count: int,
    *,
    spare: int | None = None,
    load: Callable[[], ForeignLoad] = ForeignLoad,
) -> list[Round]:
    """``count`` rounds, A B A B ...; one in which others were busy is run again while ``spare`` rounds last.

    There are as many spare rounds as rounds unless given; when they are used up, the quietest try counts.
    """
    left = count if spare is None else spare
    rounds = []
    for _ in range(count):
        tries = [_run_round(contestants, load)]
        while tries[-1].is_noisy and left:
            left -= 1
            tries.append(_run_round(contestants, load))
        rounds.append(min(tries, key=lambda each: each.foreign_cores))
    return rounds


def _run_round(contestants: Mapping[str, Callable[[], Sample]], load: Callable[[], ForeignLoad]) -> Round:
    window = load()
    samples = {name: run() for name, run in contestants.items()}
    return Round(samples=samples, foreign_cores=window.cores())


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some numbers, with the smallest and the largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=median(values), low=min(values), high=max(values))


def column(rounds: Sequence[Round], name: str, key: str) -> list[float]:
    """One figure of one contestant, round after round."""
    return [float(each.samples[name][key]) for each in rounds]


def ratios(rounds: Sequence[Round], name: str, other: str, key: str) -> Spread:
    """``name`` over ``other``, each divided within its round: what slows a whole round down cancels out."""
    return Spread.of([a / b for a, b in _pairs(rounds, name, other, key)])


def differences(rounds: Sequence[Round], name: str, other: str, key: str) -> Spread:
    """``name`` minus ``other``, each within its round."""
    return Spread.of([a - b for a, b in _pairs(rounds, name, other, key)])


def _pairs(rounds: Sequence[Round], name: str, other: str, key: str) -> list[tuple[float, float]]:
    return list(zip(column(rounds, name, key), column(rounds, other, key), strict=True))
