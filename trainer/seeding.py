"""Seeds and the state of torch's generators.

Data order and masking are functions of (seed, epoch, sample) and need no generator; what draws from torch's
(initial weights, dropout) is seeded here, and its state is saved for each rank.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.data.order import key


def seed_weights(seed: int) -> None:
    """Before initial weights are drawn: the same on every rank."""
    torch.manual_seed(seed)


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Before training: each rank has its own stream; ``step`` when resumed on another number of ranks."""
    torch.manual_seed(key(seed, "rank", rank, step) % 2**63)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states to save: the CPU's generator, and the device's when there is one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what ``generator_states`` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def set_threads(num_threads: int | None, local_ranks: int) -> int:
    """Fix torch's threads: as given, else ``OMP_NUM_THREADS``, else the cores' share; returns the number.

    Results are bit-identical for the same number of threads only, so it is part of a run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = num_threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, cores // local_ranks)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads
