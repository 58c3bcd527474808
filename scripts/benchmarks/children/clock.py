"""A plug-in with one callback, ``clock``, that tells the benchmark when the steps of a run ended."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.benchmarks.children.report import StepClock
from trainer.state import TrainerCallback


@dataclass(kw_only=True)
class Clock(StepClock, TrainerCallback):
    """Notes the end of each step."""

    def __post_init__(self) -> None:
        super().__init__()


CATALOG = {"callbacks": {"clock": "clock:Clock"}}
