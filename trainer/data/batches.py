"""The stream of optimizer steps: which rows, in which order, on which rank, from any step on.

Everything here is a function of the step's number. With G = per-device batch * accumulation * ranks and p the
keyed permutation of the epoch, step s of the epoch trains on rows p[s*G : (s+1)*G], however G is split up;
each of its micro-batches takes per-device * ranks rows, and each rank its per-device share of those. With
``group_by_length`` p is that permutation sorted by length in places, and held as an array.

Rows that are a user's own (``Rows.foreign``), and what collates them, may draw from the global generators of
torch, numpy and ``random``: for each micro-batch they are seeded by (seed, epoch, its rows), and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, count, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from conf.errors import CheckpointError, DataError
from trainer.data.loading import MADE_IN_A_ROW, Loading, MicroBatch, Silence, load, plain, seeded, silenced
from trainer.data.order import Bijection, grouped_by_length, key
from trainer.data.rows import Rows

ROWS_AT_ONCE = 4096  # positions of the permutation computed together

Item = TypeVar("Item")
Collator = Callable[[Sequence[Mapping[str, Any]]], MicroBatch]


class Share(NamedTuple):
    """What one rank does in one micro-batch: these rows; silenced, their targets do not count."""

    epoch: int
    rows: list[int]
    silent: bool


class Schedule:
    """Which rows each rank trains on in each step; numbers alone, nothing is read."""

    def __init__(
        self,
        num_rows: int,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        shuffle: bool,
        drop_last: bool,
        lengths: np.ndarray | None = None,
    ):
        """``lengths`` (rows,): order each epoch by ``grouped_by_length``; wants ``shuffle``."""
        assert 0 <= rank < world_size
        assert min(per_device_batch_size, accumulation) > 0
        assert lengths is None or (shuffle and len(lengths) == num_rows)
        if not num_rows:
            raise DataError("there is not one row of data; check the sources.")
        self.num_rows, self.seed, self.shuffle, self.lengths = num_rows, seed, shuffle, lengths
        self.rank, self.world_size = rank, world_size
        self.per_device = per_device_batch_size
        self.rows_per_micro_batch = per_device_batch_size * world_size
        self.rows_per_step = self.rows_per_micro_batch * accumulation
        whole, rest = divmod(num_rows, self.rows_per_step)
        self.steps_per_epoch = whole + (rest > 0 and not drop_last)
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{num_rows} rows do not fill a step of {self.rows_per_step}, and an incomplete last step is "
                "dropped; use more data, a smaller batch, or keep the last step."
            )
        self._steps_at_once = max(1, ROWS_AT_ONCE // self.rows_per_step)
        self._drawn: tuple[tuple[int, int], np.ndarray] | None = None
        self._grouped: tuple[int, np.ndarray] | None = None

    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        """Divide the same steps into micro-batches of another size."""
        self.rows_per_micro_batch = per_device_batch_size * self.world_size
        assert self.rows_per_micro_batch * accumulation == self.rows_per_step, "other rows than before"
        self.per_device = per_device_batch_size

    def step_rows(self, step: int) -> np.ndarray:
        """The rows of a step (counted from the start of training) over all ranks, in their order."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        block, step_of_block = divmod(step_of_epoch, self._steps_at_once)
        if self._drawn is None or self._drawn[0] != (epoch, block):
            self._drawn = (epoch, block), self._draw(epoch, block)
        start = step_of_block * self.rows_per_step
        return self._drawn[1][start : start + self.rows_per_step]

    def _draw(self, epoch: int, block: int) -> np.ndarray:
        """The rows of some steps in a row: to draw them one step at a time costs a hundred times as much."""
        size = self._steps_at_once * self.rows_per_step
        positions = np.arange(block * size, min((block + 1) * size, self.num_rows))
        if not self.shuffle:
            return positions
        order = Bijection(self.num_rows, key(self.seed, epoch, "order"))
        if self.lengths is None:
            return order.take(positions)
        if self._grouped is None or self._grouped[0] != epoch:
            every = order.take(np.arange(self.num_rows))
            self._grouped = epoch, grouped_by_length(every, self.lengths, self.rows_per_step)
        return self._grouped[1][positions]

    def num_micro_batches(self, step: int) -> int:
        """Micro-batches of a step, the same on every rank."""
        return -(-len(self.step_rows(step)) // self.rows_per_micro_batch)

    def shares(self, step: int) -> list[Share]:
        """This rank's micro-batches of a step, as many as every other rank has."""
        epoch, rows = step // self.steps_per_epoch, self.step_rows(step).tolist()
        shares = shares_of(rows, per_device=self.per_device, rank=self.rank, world_size=self.world_size)
        return [Share(epoch, own, silent) for own, silent in shares]


def shares_of(
    rows: list[Item], *, per_device: int, rank: int, world_size: int
) -> list[tuple[list[Item], bool]]:
    """One rank's part of each micro-batch of a step with these rows, and whether it is to be silent.

    In a short last step a rank may have no row left where another has one; it then repeats a row of that
    micro-batch in silence, because ranks that train together must go through equally many backward passes.
    """
    shares = []
    for start in range(0, len(rows), per_device * world_size):
        micro_batch = rows[start : start + per_device * world_size]
        own = micro_batch[rank * per_device : (rank + 1) * per_device]
        shares.append((own or micro_batch[:1], not own))
    return shares


def with_key(document: Mapping[str, Any], sample_key: int) -> dict[str, Any]:
    """The document with the integer that a random collator draws from."""
    return {**document, "sample_key": sample_key}


class _Collated:
    """Makes the micro-batch of a share; the part of a stream that its worker processes hold."""

    def __init__(self, rows: Rows, seed: int, collator: Collator, silence: Silence):
        self.rows, self.seed, self.collator, self.silence = rows, seed, collator, silence
        self.keyed = getattr(collator, "random", False)

    def __getitem__(self, share: Share) -> MicroBatch:
        with self._own_draws(share) if self.rows.foreign else nullcontext():
            documents: list[Mapping[str, Any]] = [d for row in share.rows for d in self.rows.documents(row)]
            if self.keyed:
                numbers = [number for row in share.rows for number in self.rows.numbers(row)]
                keys = (key(self.seed, share.epoch, "sample", number) for number in numbers)
                documents = [with_key(*pair) for pair in zip(documents, keys, strict=True)]
            batch = plain(self.collator(documents), "data_collator")
            return self.silence(batch) if share.silent else batch

    def _own_draws(self, share: Share) -> AbstractContextManager[None]:
        return seeded(key(self.seed, share.epoch, "rows", *share.rows))


class Batches:
    """An endless stream of optimizer steps over a row set, epoch after epoch, resumable at every step.

    ``next(batches)`` gives this rank's micro-batches of one step; a step never crosses an epoch's end, where
    it may be short unless ``drop_last``. After it ``step`` counts the steps given out, ``epoch`` is the same
    in epochs, and ``is_epoch_end`` tells whether that step was its epoch's last. ``step`` is the place in the
    data and nothing else: how many updates were made is the training's affair. How batches are loaded (see
    ``Loading``) changes neither their order nor their content; what was not asked for yet does not count.

    A collator whose attribute ``random`` is true finds in each document a ``sample_key``, an integer made of
    (seed, epoch, document), to draw from. ``silence`` makes a micro-batch weigh nothing for the objective.
    """

    def __init__(
        self,
        rows: Rows,
        collator: Collator,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
        lengths: np.ndarray | None = None,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        silence: Silence = silenced,
        start_step: int = 0,
    ):
        """With ``lengths`` (rows,) the steps hold rows of similar length (``order.grouped_by_length``).

        Raises DataError if there is no row, or ``drop_last`` leaves no step at all.
        """
        self.rows = rows
        self.schedule = Schedule(
            len(rows),
            seed=seed,
            per_device_batch_size=per_device_batch_size,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
            shuffle=shuffle,
            drop_last=drop_last,
            lengths=lengths,
        )
        self.step = start_step
        self._collated = _Collated(rows, seed, collator, silence)
        self._loading = Loading(
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            in_a_row=1 if rows.foreign else MADE_IN_A_ROW,
        )
        self._loaded: Generator[MicroBatch, None, None] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.schedule.steps_per_epoch

    @property
    def epoch(self) -> float:
        """Epochs done so far, with the fraction of the one under way."""
        return self.step / self.steps_per_epoch

    @property
    def is_epoch_end(self) -> bool:
        """Whether the step given out last was the last of its epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> list[MicroBatch]:
        if self._loaded is None:
            endless = self._loading.crosses_epochs
            steps = count(self.step) if endless else range(self.step, self._next_epoch(self.step + 1))
            wanted = chain.from_iterable(map(self.schedule.shares, steps))
            self._loaded = load(self._collated, wanted, self._loading)
        micro_batches = list(islice(self._loaded, self.schedule.num_micro_batches(self.step)))
        assert micro_batches, "a stream that raised an error was asked to go on"
        self.step += 1
        if self.is_epoch_end and not self._loading.crosses_epochs:
            self.close()
        return micro_batches

    def _next_epoch(self, step: int) -> int:
        """The first step, from this one on, with which an epoch begins."""
        return -(-step // self.steps_per_epoch) * self.steps_per_epoch

    def skip_epoch(self) -> None:
        """Leave out what is left of the epoch under way."""
        self.close()
        self.step = self._next_epoch(self.step)

    def step_back(self) -> None:
        """Give the step that was given out last once more."""
        assert self.step > 0, "no step was given out"
        self.close()
        self.step -= 1

    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        """Give the same rows of a step in micro-batches of another size from the next step on."""
        self.close()
        self.schedule.resplit(per_device_batch_size, accumulation)

    def places(self, step: int | None = None) -> list[str]:
        """Where this rank's rows of a step (by default the last given out) came from, as ``file:line``."""
        shares = self.schedule.shares(self.step - 1 if step is None else step)
        rows = (row for share in shares if not share.silent for row in share.rows)
        return [place for row in rows for place in self.rows.places(row)]

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank; with the two numbers that give it its meaning."""
        return {"step": self.step, "rows": len(self.rows), "rows_per_step": self.schedule.rows_per_step}

    def load_state_dict(self, state: dict[str, Any], *, skip: bool = True) -> None:
        """Go to a position; costs the same wherever it is. CheckpointError if it is one of other data.

        Without ``skip`` go to the start of its epoch, whose data are then all seen (``ignore_data_skip``).
        """
        for name, now in self.state_dict().items():
            if name != "step" and state[name] != now:
                raise CheckpointError(
                    f"the data position was saved with {state[name]} {name.replace('_', ' ')} and there are "
                    f"{now} now; continue with the same data and global batch size, or start a new run."
                )
        self.close()
        step: int = state["step"]
        self.step = step if skip else step - step % self.steps_per_epoch

    def close(self) -> None:
        """Stop the worker processes; the next step starts them again."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


class EvaluationBatches:
    """One pass over a row set in its order, again at each iteration; this rank's micro-batches only.

    Worker processes, if asked for, live as long as the pass.
    """

    def __init__(
        self,
        rows: Rows,
        collator: Collator,
        *,
        per_device_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
    ):
        self.schedule = Schedule(
            len(rows),
            seed=0,
            per_device_batch_size=per_device_batch_size,
            accumulation=1,
            rank=rank,
            world_size=world_size,
            shuffle=False,
            drop_last=False,
        )
        self._collated = _Collated(rows, 0, collator, silenced)
        self._loading = Loading(
            num_workers=num_workers, prefetch_factor=prefetch_factor, pin_memory=pin_memory, in_a_row=1
        )

    def __iter__(self) -> Iterator[MicroBatch]:
        shares = chain.from_iterable(map(self.schedule.shares, range(self.schedule.steps_per_epoch)))
        return load(self._collated, (share for share in shares if not share.silent), self._loading)
