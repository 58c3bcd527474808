"""Seeds, determinism, and the states of the generators.

Data order and masking are functions of (seed, epoch, sample) and need no generator; what draws from torch's
(initial weights, dropout) is seeded here, with Python's and numpy's, which data sets and collators of users
draw from. Their states are saved for each rank.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from trainer.data.order import key

# cuBLAS adds up in a fixed order with this workspace only; FlashAttention reads the other one.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed ``random``, numpy and torch, on all devices; ``deterministic`` also refuses torch's other kernels.

    Reference page internal/trainer_utils.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed everything and compute everything reproducibly, which is slower.

    An operation that has no deterministic kernel raises, or with ``warn_only`` warns. Call it before the GPU
    is first used: its libraries read the environment then. Reference page internal/trainer_utils.
    """
    set_seed(seed)
    os.environ.update(DETERMINISTIC)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextmanager
def full_determinism(seed: int, warn_only: bool = False) -> Iterator[None]:
    """``enable_full_determinism`` for a block; flags and environment are as before it afterwards."""
    environment = {name: os.environ.get(name) for name in DETERMINISTIC}
    enabled = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    enable_full_determinism(seed, warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warned_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def seed_rank(seed: int, rank: int, step: int = 0) -> None:
    """Before training: each rank has its own stream; ``step`` when resumed on another number of ranks."""
    set_seed(key(seed, "rank", rank, step) % 2**63)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states to save: torch's on the CPU and on the device if that has one, Python's and numpy's."""
    states = {"cpu": torch.get_rng_state(), "python": _python_state(), "numpy": _numpy_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what ``generator_states`` gave; checkpoints of before may lack Python's and numpy's."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
    if "python" in states:
        *words, gauss = states["python"].tolist()
        random.setstate((3, tuple(map(int, words)), None if np.isnan(gauss) else gauss))
    if "numpy" in states:
        *words, gauss = states["numpy"].tolist()
        twister = {"key": np.array(words[:-1], dtype=np.uint32), "pos": int(words[-1])}
        rest = {"has_gauss": not np.isnan(gauss), "gauss": np.nan_to_num(gauss)}
        np.random.set_state({"bit_generator": "MT19937", "state": twister, **rest})


# Both are Mersenne twisters: 624 words of 32 bits, a position, and the second of a pair of normal numbers if
# one is left over. All of that is exact in (626,) float64; NaN stands for none left over.


def _python_state() -> Tensor:
    _, words, gauss = random.getstate()
    return torch.tensor([*words, np.nan if gauss is None else gauss], dtype=torch.float64)


def _numpy_state() -> Tensor:
    state = np.random.get_state(legacy=False)
    words, gauss = state["state"], state["gauss"] if state["has_gauss"] else np.nan
    return torch.tensor([*words["key"].tolist(), words["pos"], gauss], dtype=torch.float64)


def set_threads(num_threads: int | None, local_ranks: int) -> int:
    """Fix torch's threads: as given, else ``OMP_NUM_THREADS``, else the cores' share; returns the number.

    Results are bit-identical for the same number of threads only, so it is part of a run.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = num_threads or int(os.environ.get("OMP_NUM_THREADS", "0")) or max(1, cores // local_ranks)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return threads
