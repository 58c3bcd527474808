"""The processes of a run and the engine that keeps them together; the only place that knows accelerate.

``launch_environment`` reads what the launcher set (no torch); ``trainer.ranks.ranks.Ranks`` is the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LaunchEnvironment:
    """Which process this is, as the launcher's variables say."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    run_id: str | None = None
    restarts: int = 0
    max_restarts: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def launch_environment(variables: Mapping[str, str] = os.environ) -> LaunchEnvironment:
    """Read the variables of torchrun and accelerate launch; one process when there are none."""

    def number(name: str, default: int) -> int:
        return int(variables.get(name) or default)

    world_size = number("WORLD_SIZE", 1)
    return LaunchEnvironment(
        rank=number("RANK", 0),
        local_rank=number("LOCAL_RANK", 0),
        world_size=world_size,
        local_world_size=number("LOCAL_WORLD_SIZE", world_size),
        run_id=variables.get("TORCHELASTIC_RUN_ID"),
        restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
        max_restarts=number("TORCHELASTIC_MAX_RESTARTS", 0),
    )
