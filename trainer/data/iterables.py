"""A user's own data set that can only be iterated: the resumable stream of its steps, and its evaluation.

The contract: each iteration gives an epoch's samples from the first on, the same ones on every rank and when
the epoch is iterated again. What is shuffled in it is drawn from its attribute ``generator``, a torch
generator that is seeded with seed + epoch, or follows its method ``set_epoch(epoch)``, or from the global
generators, which are seeded as well. Source: the reference's page main_classes/trainer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from itertools import count, repeat
from typing import Any

from conf.errors import StockpotError
from trainer.data.batches import Collator, shares_of, with_key
from trainer.data.datasets import kept, unreadable
from trainer.data.loading import Loading, MicroBatch, Silence, SilentBatch, load, plain, silenced
from trainer.data.order import key
from trainer.data.sequential import Ahead, EpochBatches, EpochPlan, begin_epoch, length_of, refuse_workers

Sample = Mapping[str, Any]


class IterablePlan(EpochPlan[Sample]):
    """The steps over an iterable data set: every rank reads every sample and takes its own."""

    def __init__(
        self,
        dataset: Any,
        collator: Collator,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        drop_last: bool,
        keep: Collection[str] | None,
        name: str,
        silence: Silence,
    ):
        super().__init__(
            name=name,
            units=("sample", "samples"),
            items_per_step=per_device_batch_size * accumulation * world_size,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
        )
        self.dataset, self.collator, self.keep, self.silence = dataset, collator, keep, silence
        self.per_device, self.world_size = per_device_batch_size, world_size
        self.keyed = getattr(collator, "random", False)

    def items(self, epoch: int) -> Iterator[Sample]:
        begin_epoch(self.dataset, self.seed, epoch)
        samples = iter(self.dataset)
        for number in count():
            place = self._place(epoch, number)
            try:
                sample = next(samples)
            except StopIteration:
                return
            except StockpotError:
                raise
            except Exception as error:
                raise unreadable(place, error) from error
            sample = kept(sample, self.keep, place)
            if self.keyed:
                sample = with_key(sample, key(self.seed, epoch, "sample", number))
            yield sample

    def make(self, items: list[Sample], epoch: int, first: int) -> tuple[list[MicroBatch], list[str]]:
        micro_batches, places = [], []
        numbered = list(enumerate(items, first))
        for own, silent in shares_of(
            numbered, per_device=self.per_device, rank=self.rank, world_size=self.world_size
        ):
            batch = plain(self.collator([sample for _, sample in own]), "data_collator")
            micro_batches.append(self.silence(batch) if silent else batch)
            places += [] if silent else [self._place(epoch, number) for number, _ in own]
        return micro_batches, places

    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        assert per_device_batch_size * accumulation * self.world_size == self.items_per_step
        self.per_device = per_device_batch_size

    def _place(self, epoch: int, number: int) -> str:
        return f"{self.name}, sample {number} of epoch {epoch}"


class IterableBatches(EpochBatches):
    """An endless stream of optimizer steps like ``Batches``, over a data set that can only be iterated.

    Step s of an epoch trains on its samples s * G to (s + 1) * G, G rows a step over all ranks, however G is
    split up. ``keep`` names the columns that are passed on, None passes all.
    """

    def __init__(
        self,
        dataset: Any,
        collator: Collator,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        keep: Collection[str] | None = None,
        name: str = "train_dataset",
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        silence: Silence = silenced,
    ):
        """Raises ConfigError for more than one worker."""
        plan = IterablePlan(
            dataset,
            collator,
            seed=seed,
            per_device_batch_size=per_device_batch_size,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            keep=keep,
            name=name,
            silence=silence,
        )
        loading = Loading(
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            in_a_row=1,
        )
        super().__init__(plan, length_of(dataset), loading)


class IterableEvaluationBatches:
    """One pass over an iterable data set, again at each iteration; this rank's micro-batches only.

    Each pass is its epoch 0 with the seed 0; a worker process, if asked for, lives as long as the pass.
    """

    def __init__(
        self,
        dataset: Any,
        collator: Collator,
        *,
        per_device_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        keep: Collection[str] | None = None,
        name: str = "eval_dataset",
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
    ):
        """Raises ConfigError for more than one worker."""
        refuse_workers(num_workers)
        self._plan = IterablePlan(
            dataset,
            collator,
            seed=0,
            per_device_batch_size=per_device_batch_size,
            accumulation=1,
            rank=rank,
            world_size=world_size,
            drop_last=False,
            keep=keep,
            name=name,
            silence=SilentBatch,
        )
        self._loading = Loading(
            num_workers=num_workers, prefetch_factor=prefetch_factor, pin_memory=pin_memory, in_a_row=1
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        ahead = Ahead(self._plan, self._plan.beginning(0), one_epoch=True)
        with closing(load(ahead, repeat(None), self._loading)) as steps:
            for step in steps:
                yield from (batch for batch in step.micro_batches if not isinstance(batch, SilentBatch))
                if step.is_epoch_end:
                    return
