"""Batches made in this process, or ahead of time in worker processes: the same batches in the same order."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any, Protocol

import numpy as np

from conf.errors import DataError, StockpotError

MADE_IN_A_ROW = 16

MicroBatch = dict[str, Any]
Silence = Callable[[MicroBatch], MicroBatch]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Where batches are made: in ``num_workers`` processes, ``prefetch_factor`` ahead in each, or here.

    ``pin_memory``: in page-locked memory, which an accelerator copies from while it computes; where there is
    none, nothing is pinned. ``persistent_workers``: workers live on when an epoch ends. ``in_a_row``: as many
    are made here before training goes on; 1 where batches may be large.
    """

    num_workers: int = 0
    prefetch_factor: int = 2
    pin_memory: bool = False
    persistent_workers: bool = False
    in_a_row: int = MADE_IN_A_ROW

    @property
    def crosses_epochs(self) -> bool:
        """Whether the next epoch's batches may be made before this epoch's have been used."""
        return self.persistent_workers or not self.num_workers

    def pins(self) -> bool:
        """Whether batches are pinned."""
        if not self.pin_memory:
            return False
        import torch

        return torch.accelerator.is_available()


class Maker(Protocol):
    """Makes a batch from a description of it."""

    def __getitem__(self, what: Any) -> Any: ...


def load(maker: Maker, wanted: Iterable[Any], loading: Loading) -> Generator[Any, None, None]:
    """``maker[what]`` for all that is wanted, in order; closing the generator ends its workers."""
    if loading.num_workers:
        yield from _loaded_ahead(maker, wanted, loading)
    else:
        yield from _made_here(maker, wanted, loading)


def _made_here(maker: Maker, wanted: Iterable[Any], loading: Loading) -> Generator[Any, None, None]:
    """The first alone, so that training starts; then several in a row.

    A training step empties the processor's caches of the code that makes a batch, and to fetch it again takes
    longer than to make one.
    """
    remaining, pins = iter(wanted), loading.pins()
    for count in chain([1], repeat(loading.in_a_row)):
        made = []
        try:
            for what in islice(remaining, count):
                made.append(pinned(maker[what]) if pins else maker[what])
        finally:
            yield from made  # an error comes after what was made before it
        if len(made) < count:
            return


def pinned(made: Any) -> Any:
    """A copy in page-locked memory of every tensor in mappings, lists and named tuples."""
    if isinstance(made, Mapping):
        return type(made)((name, pinned(value)) for name, value in made.items())  # type: ignore[call-arg]
    if isinstance(made, list):
        return [pinned(item) for item in made]
    if isinstance(made, tuple) and hasattr(made, "_fields"):
        return type(made)(*map(pinned, made))
    return made.pin_memory() if hasattr(made, "pin_memory") else made


def _loaded_ahead(maker: Maker, wanted: Iterable[Any], loading: Loading) -> Generator[Any, None, None]:
    from torch import Generator as RandomGenerator
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Reporting(maker),  # type: ignore[arg-type]
        batch_size=None,
        sampler=wanted,
        collate_fn=_unchanged,
        num_workers=loading.num_workers,
        prefetch_factor=loading.prefetch_factor,
        pin_memory=loading.pins(),
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


class SilentBatch(dict[str, Any]):
    """A micro-batch that only keeps the other ranks company: it is run and weighs nothing."""


def silenced(batch: MicroBatch) -> SilentBatch:
    """The batch with every label set to -100, so that it weighs nothing."""
    labels = [name for name in batch if name.endswith("labels")]
    assert labels, "a collator gives labels, or its batches cannot be silenced"
    for name in labels:
        batch[name].fill_(-100)
    return SilentBatch(batch)


def plain(batch: Any, where: str) -> MicroBatch:
    """What a user's collator or loader gave, as a dict; DataError naming ``where`` if it is no mapping."""
    if isinstance(batch, Mapping):
        return batch if isinstance(batch, dict) else dict(batch)
    raise DataError(
        f"{where}: a batch is a mapping of the model's argument names to tensors, and a "
        f"{type(batch).__name__} was given; let the collator return a dict."
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global CPU generators of torch, numpy and ``random``, seeded for a while and then put back.

    What a user's dataset, collator or sampler draws in it is a function of the seed alone, whichever process
    draws it and whatever was drawn before, and training draws what it would have drawn without it.
    """
    import torch

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
