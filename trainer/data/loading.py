"""Batches made in this process, or ahead of time in worker processes: the same batches in the same order."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterable
from itertools import chain, islice, repeat
from typing import Any, Protocol

from conf.errors import StockpotError

MADE_IN_A_ROW = 16

MicroBatch = dict[str, Any]


class Maker(Protocol):
    """Makes a batch from a description of it."""

    def __getitem__(self, what: Any) -> Any: ...


def load(
    maker: Maker, wanted: Iterable[Any], num_workers: int, prefetch_factor: int
) -> Generator[Any, None, None]:
    """``maker[what]`` for all that is wanted, in order; closing the generator ends its workers."""
    if num_workers:
        yield from _loaded_ahead(maker, wanted, num_workers, prefetch_factor)
    else:
        yield from _made_here(maker, wanted)


def _made_here(maker: Maker, wanted: Iterable[Any]) -> Generator[Any, None, None]:
    """The first alone, so that training starts; then several in a row.

    A training step empties the processor's caches of the code that makes a batch, and to fetch it again takes
    longer than to make one.
    """
    remaining = iter(wanted)
    for count in chain([1], repeat(MADE_IN_A_ROW)):
        made = []
        try:
            for what in islice(remaining, count):
                made.append(maker[what])
        finally:
            yield from made  # an error comes after what was made before it
        if len(made) < count:
            return


def _loaded_ahead(
    maker: Maker, wanted: Iterable[Any], num_workers: int, prefetch_factor: int
) -> Generator[Any, None, None]:
    from torch import Generator as RandomGenerator
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Reporting(maker),  # type: ignore[arg-type]
        batch_size=None,
        sampler=wanted,
        collate_fn=_unchanged,
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        worker_init_fn=detach_from_signals,
        generator=RandomGenerator(),  # it draws a seed at every start: not from the training's own generator
    )
    ahead = iter(loader)
    try:
        for made in ahead:
            if isinstance(made, StockpotError):
                raise made
            yield made
    finally:
        ahead._shutdown_workers()  # type: ignore[attr-defined]


class _Reporting:
    """Gives our errors back instead of raising them: raised, they would arrive as the worker's traceback."""

    def __init__(self, maker: Maker):
        self.maker = maker

    def __getitem__(self, what: Any) -> Any:
        try:
            return self.maker[what]
        except StockpotError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def detach_from_signals(worker: int) -> None:
    """Keep from a worker the signals meant for the run, which ends its workers itself when it is done.

    Ctrl-C goes to the whole process group of a terminal; a worker that died of it would take along the step
    that the run still has to finish before it saves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)


def silenced(batch: MicroBatch) -> MicroBatch:
    """The batch with every label set to -100, so that it weighs nothing."""
    labels = [name for name in batch if name.endswith("labels")]
    assert labels, "a collator gives labels, or its batches cannot be silenced"
    for name in labels:
        batch[name].fill_(-100)
    return batch
