"""How a process tells the benchmark its figures. Standard library only: importing it must cost nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def report(figures: Any) -> None:
    """Write the figures where the benchmark reads them."""
    Path(os.environ["STOCKPOT_BENCHMARK_REPORT"]).write_text(json.dumps(figures))


def resident_bytes() -> dict[str, int]:
    """Resident size of this process now: all of it, and with shared pages divided among their users."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return {"rss": kilobytes["Rss"] * 1024, "pss": kilobytes["Pss"] * 1024}


class StepClock:
    """A callback's part that notes when each step ended and how much memory was resident after the first.

    It fits the events of our callbacks and of the ``transformers`` library's alike; the clock is the one that
    all processes share.
    """

    def __init__(self) -> None:
        self.step_ends: list[float] = []
        self.memory: dict[str, int] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_ends.append(time.monotonic())
        if len(self.step_ends) == 1:
            self.memory = resident_bytes()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        report({"step_ends": self.step_ends, **self.memory})
