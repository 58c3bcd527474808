"""How much memory a training holds while it goes on."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState

_STATM = Path("/proc/self/statm")  # sizes of this process in pages; Linux has it


@dataclass(kw_only=True)
class MemoryCallback(TrainerCallback):
    """Adds what the main process holds to each training line of the log, in bytes, and a table at the end.

    ``cpu_mem_rss``: resident now, where the system says so; ``cpu_mem_peak``: at most since the process
    began. On an accelerator also ``gpu_mem_allocated`` to tensors, ``gpu_mem_reserved`` from the device, and
    ``gpu_mem_peak``: allocated at most since the training began. The table has the highest of each. What each
    stage of a run takes is told by ``logging.skip_memory_metrics: false``.
    """

    def __post_init__(self) -> None:
        self._highest: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._highest = {}

    def log_values(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> dict[str, int]:
        return self._read(kwargs["model"]) if "loss" in logs else {}

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._read(kwargs["model"])
        width = max(map(len, self._highest))
        rows = (f"  {name:<{width}}  {value / 2**20:10,.1f} MiB" for name, value in self._highest.items())
        print("\n".join(["memory, highest of each", *rows]))

    def _read(self, model: Any) -> dict[str, int]:
        values = {**_of_cpu(), **_of_accelerator(next(model.parameters()).device)}
        for name, value in values.items():
            self._highest[name] = max(value, self._highest.get(name, 0))
        if "gpu_mem_peak" in values:  # the device's own count may be set back meanwhile, by a stage's begin
            values["gpu_mem_peak"] = self._highest["gpu_mem_peak"]
        return values


def _of_cpu() -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if not _STATM.exists():
        return {"cpu_mem_peak": peak}
    resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"cpu_mem_rss": resident, "cpu_mem_peak": max(peak, resident)}


def _of_accelerator(device: Any) -> dict[str, int]:
    import torch

    if device.type == "cpu":
        return {}
    return {
        "gpu_mem_allocated": torch.accelerator.memory_allocated(device),
        "gpu_mem_reserved": torch.accelerator.memory_reserved(device),
        "gpu_mem_peak": torch.accelerator.max_memory_allocated(device),
    }
