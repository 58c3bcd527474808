"""A user's own DataLoader, or any iterable of ready batches, as a resumable stream of optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from conf.errors import ConfigError
from trainer.data.loading import Loading, MicroBatch, plain
from trainer.data.sequential import EpochBatches, EpochPlan, begin_epoch, length_of

TELLING = ("sampler", "batch_sampler", "dataset")  # parts of a loader that may want to know the epoch


class LoaderPlan(EpochPlan[MicroBatch]):
    """The steps over a loader's batches, each one micro-batch."""

    def __init__(self, loader: Any, accumulation: int, *, seed: int):
        super().__init__(
            name="the training loader", units=("batch", "batches"), items_per_step=accumulation, seed=seed
        )
        self.loader = loader

    def items(self, epoch: int) -> Iterator[MicroBatch]:
        parts = [self.loader, *(getattr(self.loader, part, None) for part in TELLING)]
        for part in {id(part): part for part in parts}.values():
            begin_epoch(part, self.seed, epoch)
        for number, batch in enumerate(self.loader):
            yield plain(batch, self._place(number))

    def make(self, items: list[MicroBatch], epoch: int, first: int) -> tuple[list[MicroBatch], list[str]]:
        return items, [self._place(number) for number in range(first, first + len(items))]

    def resplit(self, per_device_batch_size: int, accumulation: int) -> NoReturn:
        raise ConfigError(
            "training.auto_find_batch_size: a data loader of your own makes its batches itself; set their "
            "size there, or leave this out."
        )

    def _place(self, number: int) -> str:
        return f"batch {number} of {self.name}"


class LoaderBatches(EpochBatches):
    """An endless stream of optimizer steps of up to ``accumulation`` of a loader's batches.

    On several ranks each gives its own loader, which holds this rank's share of the data already and has as
    many batches as the others'. An epoch is one iteration of the loader. Which one comes is told to it, its
    sampler, batch sampler and data set, by ``set_epoch(epoch)`` or by seeding their ``generator`` with seed +
    epoch; what they draw from the global generators is a function of (seed, epoch, step). So the order is the
    same when an epoch is read again to go on in the middle of it.
    """

    def __init__(self, loader: Any, accumulation: int = 1, *, seed: int):
        plan = LoaderPlan(loader, accumulation, seed=seed)
        super().__init__(plan, length_of(loader), Loading(in_a_row=1))
