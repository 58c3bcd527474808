"""Letting one process do a piece of work before the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Every process but the one with ``local_rank`` 0 (or -1, alone) waits until that one has left the block.

    Without a process group there is nobody to wait for. Reference page internal/trainer_utils.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = local_rank in (-1, 0)
    if together and not first:
        torch.distributed.barrier()
    try:
        yield
    finally:
        if together and first:
            torch.distributed.barrier()
