"""Gives memory that the allocator holds and nobody uses back to the device every few steps."""

from __future__ import annotations

from typing import Any

import torch

from trainer.state import TrainerCallback, TrainerControl, TrainerState


class EmptyCacheCallback(TrainerCallback):
    """Empties the cache of ``device``, an accelerator, after every ``steps`` steps."""

    def __init__(self, steps: int, device: torch.device):
        self.steps, self.device = steps, device

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0:
            with torch.accelerator.device_index(self.device.index):
                torch.accelerator.memory.empty_cache()
