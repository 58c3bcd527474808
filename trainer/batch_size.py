"""A micro-batch that fits: when memory runs out the same step is taken again in smaller parts.

The rows of a step, the schedule and the result stay what they were asked to be: only how a step is split up
changes, so nothing is trained twice and nothing is left out. The size found goes on for the rest of the run,
is the same on every rank, and is kept in the checkpoints.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conf.errors import ConfigError
from trainer.seeding import generator_states, restore_generators

if TYPE_CHECKING:
    from trainer.run import MicroBatch, Run

Terms = Mapping[str, Tensor]
Propagate = Callable[["Run", Sequence["MicroBatch"]], list[Terms]]


def fitting(propagate: Propagate) -> Propagate:
    """``propagate``, tried with ever smaller micro-batches until one fits on every rank.

    Whatever was drawn at random is drawn anew. Memory that runs out elsewhere, as for the optimizer's state,
    would not be helped by a smaller micro-batch. Raises ``ConfigError`` when not even one row at a time fits.
    """

    def fitted(run: Run, micro_batches: Sequence[MicroBatch]) -> list[Terms]:
        while True:
            states = generator_states(run.ranks.device)
            partial = _tried(propagate, run, micro_batches)
            ran_out = run.ranks.all_reduce([float(partial is None)])[0]
            if partial is not None and not ran_out:
                return partial
            run.optimizer.zero_grad(set_to_none=True)
            _free(run.ranks.device)
            restore_generators(states, run.ranks.device)
            shrink(run)
            micro_batches = next(run.batches)
            run.weigh(micro_batches)

    return fitted


def _tried(propagate: Propagate, run: Run, micro_batches: Sequence[MicroBatch]) -> list[Terms] | None:
    """What ``propagate`` gives, or None where memory ran out; with the error goes what its frames held."""
    try:
        return propagate(run, micro_batches)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(
        words in text for words in ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def shrink(run: Run) -> None:
    """Split the step that was given out last, and all that follow, into smaller micro-batches."""
    size = run.state.train_batch_size
    assert size is not None
    smaller = largest_below(size, run.options.rows_per_step // run.ranks.world_size)
    if smaller is None:
        raise ConfigError(
            f"training.auto_find_batch_size: memory does not even suffice for a micro-batch of {size} on "
            "each rank; take shorter rows, a smaller model, or training.gradient_checkpointing."
        )
    run.batches.step_back()
    _split(run, smaller)
    run.say(f"memory ran out with micro-batches of {size}; going on with {smaller}.")


def split_as_found(run: Run, size: int) -> None:
    """Go on with micro-batches of ``size`` rows, as an earlier start found, or as near below as divides."""
    size = largest_below(size + 1, run.options.rows_per_step // run.ranks.world_size) or 1
    if size != run.state.train_batch_size:
        _split(run, size)


def largest_below(size: int, rows: int) -> int | None:
    """The largest divisor of ``rows`` below ``size``; None when there is none."""
    return next((smaller for smaller in range(size - 1, 0, -1) if rows % smaller == 0), None)


def _split(run: Run, size: int) -> None:
    """Micro-batches of ``size`` rows on each rank from the next step on; a step's rows stay the same."""
    run.batches.resplit(size, run.options.rows_per_step // (size * run.ranks.world_size))
    run.state.train_batch_size = size


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
