"""The stream of optimizer steps over sources that are never read as a whole: tokenized block by block.

A block is the next ``block_rows`` raw rows, taken evenly from the sources that still have some. Its documents
are packed among themselves if asked, and its rows shuffled by a key of (seed, epoch, block). What a block
gives depends on where it begins alone, so a position is that beginning and how many of the rows were used,
and to resume is to read one block again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, repeat
from typing import Any, NamedTuple, TypeVar

import numpy as np

from conf.errors import CheckpointError, ConfigError, DataError
from trainer.data.batches import Collator, shares_of, with_key
from trainer.data.cache import count_supervised
from trainer.data.files import Position
from trainer.data.loading import MicroBatch, load, silenced
from trainer.data.order import Bijection, key
from trainer.data.packing import pack
from trainer.data.sources import Row, Source
from trainer.data.tokenizing import Format, encoded, with_targets

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A position: a block, where each source stood as it began (None: at its end), and rows of it used."""

    epoch: int
    block: int
    starts: tuple[Position | None, ...]
    used: int = 0


class PlacedDocument(NamedTuple):
    """A document and the ``file:line`` of its raw row."""

    document: dict[str, Any]
    place: str


class StreamStep(NamedTuple):
    """One rank's part of a step, and the position after it."""

    micro_batches: list[MicroBatch]
    places: list[str]
    after: Cursor
    is_epoch_end: bool


class StreamPlan:
    """The steps from any position on; the part of a stream that its worker process holds.

    Every rank tokenizes every row and takes its own: which rows a step has depends neither on the number of
    ranks nor on how many documents a row turns out to give.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, Format]],
        collator: Collator,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int,
        rank: int,
        world_size: int,
        capacity: int | None,
        shuffle: bool,
        block_rows: int,
    ):
        self.sources, self.collator, self.seed = sources, collator, seed
        self.per_device, self.rank, self.world_size = per_device_batch_size, rank, world_size
        self.rows_per_step = per_device_batch_size * accumulation * world_size
        self.capacity, self.shuffle, self.block_rows = capacity, shuffle, block_rows
        self.keyed = getattr(collator, "random", False)

    def beginning(self, epoch: int) -> Cursor:
        return Cursor(epoch=epoch, block=0, starts=(Position(0, 0, 1),) * len(self.sources))

    def steps(self, cursor: Cursor) -> Iterator[StreamStep]:
        """Every step after a position, epoch after epoch."""
        while True:
            rows = _with_last(self._rows(cursor))
            found = False
            while step := list(islice(rows, self.rows_per_step)):
                found = True
                (_, after), last = step[-1]
                after = self.beginning(cursor.epoch + 1) if last else after
                yield self._step([documents for (documents, _), _ in step], after, last)
            if not found:
                names = ", ".join(source.options.path for source, _ in self.sources)
                raise DataError(f"{names}: there is not one row with text in it.")
            cursor = self.beginning(cursor.epoch + 1)

    def _step(self, rows: list[list[PlacedDocument]], after: Cursor, last: bool) -> StreamStep:
        micro_batches, places = [], []
        for own, silent in shares_of(
            rows, per_device=self.per_device, rank=self.rank, world_size=self.world_size
        ):
            batch = self.collator([placed.document for row in own for placed in row])
            micro_batches.append(silenced(batch) if silent else batch)
            places += [] if silent else [placed.place for row in own for placed in row]
        return StreamStep(micro_batches, places, after, last)

    def _rows(self, cursor: Cursor) -> Iterator[tuple[list[PlacedDocument], Cursor]]:
        """The rest of an epoch's rows, each with the position after it."""
        skipped = cursor.used
        for begin, raw in self._blocks(cursor):
            rows = self._arranged(begin, [placed for part in raw for placed in self._documents(*part)])
            for used in range(skipped, len(rows)):
                yield rows[used], replace(begin, used=used + 1)
            skipped = 0

    def _blocks(self, cursor: Cursor) -> Iterator[tuple[Cursor, list[tuple[int, list[Row]]]]]:
        """Where each block begins, and its raw rows by number of source."""
        starts, block = list(cursor.starts), cursor.block
        readers = [
            iter(()) if start is None else source.rows(start)
            for (source, _), start in zip(self.sources, starts, strict=True)
        ]
        while live := [number for number, start in enumerate(starts) if start is not None]:
            begin = Cursor(epoch=cursor.epoch, block=block, starts=tuple(starts))
            wanted = -(-self.block_rows // len(live))
            raw = [(number, list(islice(readers[number], wanted))) for number in live]
            for number, rows in raw:
                starts[number] = rows[-1].next if len(rows) == wanted else None
            yield begin, raw
            block += 1

    def _documents(self, number: int, rows: Iterable[Row]) -> Iterator[PlacedDocument]:
        """The documents of a source's rows, each as often as the source's weight says."""
        source, form = self.sources[number]
        weight = source.options.weight
        repeats = {row.next: self._repeats(number, row, weight) for row in rows}
        for row, documents in encoded((row for row in rows if repeats[row.next]), form):
            place = f"{row.file}:{row.line}"
            kept = with_targets(documents)
            if kept and not count_supervised(kept[0]):
                raise DataError(f"{place}: this row has no supervised token; remove it or raise max_length.")
            yield from [PlacedDocument(document, place) for document in kept] * repeats[row.next]

    def _repeats(self, number: int, row: Row, weight: float) -> int:
        """The weight, rounded up for as many rows as its fraction says; the same rows in every epoch."""
        draw = key(self.seed, "mixture", number, row.file, row.line) / 2**64
        return int(weight) + (draw < weight % 1)

    def _arranged(self, begin: Cursor, documents: list[PlacedDocument]) -> list[list[PlacedDocument]]:
        """The documents of a block as rows: keyed, packed and shuffled where asked."""
        if not documents:
            return []
        if self.keyed:
            where = (self.seed, begin.epoch, "sample", begin.block)
            documents = [
                placed._replace(document=with_key(placed.document, key(*where, number)))
                for number, placed in enumerate(documents)
            ]
        rows = [[placed] for placed in documents]
        if self.capacity is not None:
            packed = pack(np.array([len(d.document["input_ids"]) for d in documents]), self.capacity)
            rows = [[documents[number] for number in packed[row]] for row in range(len(packed))]
        if not self.shuffle:
            return rows
        order = Bijection(len(rows), key(self.seed, begin.epoch, "order", begin.block))
        return [rows[number] for number in order.take(np.arange(len(rows)))]


class _Ahead:
    """The steps from a position on, one after the other whatever is asked for: for a single loader."""

    def __init__(self, plan: StreamPlan, start: Cursor):
        self.plan, self.start = plan, start
        self._steps: Iterator[StreamStep] | None = None

    def __getitem__(self, what: None) -> StreamStep:
        if self._steps is None:
            self._steps = self.plan.steps(self.start)
        return next(self._steps)


class StreamBatches:
    """An endless stream of optimizer steps like ``Batches``, over rows read and tokenized on the way.

    How many rows there are shows only at their end, so ``steps_per_epoch`` is None and ``epoch`` counts whole
    epochs. A source's weight w repeats each of its rows floor(w) times and a keyed share w - floor(w) of them
    once more. One worker process at most reads ahead. A row without a supervised token is a DataError.
    """

    steps_per_epoch: None = None

    def __init__(
        self,
        sources: Sequence[tuple[Source, Format]],
        collator: Collator,
        *,
        seed: int,
        per_device_batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        capacity: int | None = None,
        shuffle: bool = True,
        block_rows: int = 1024,
        num_workers: int = 0,
        prefetch_factor: int = 2,
    ):
        """Pack to ``capacity`` tokens unless None. Raises ConfigError for more than one worker."""
        if num_workers > 1:
            raise ConfigError(f"{num_workers} loader workers cannot share one stream of rows; use 0 or 1.")
        self._plan = StreamPlan(
            sources,
            collator,
            seed=seed,
            per_device_batch_size=per_device_batch_size,
            accumulation=accumulation,
            rank=rank,
            world_size=world_size,
            capacity=capacity,
            shuffle=shuffle,
            block_rows=block_rows,
        )
        self._num_workers, self._prefetch_factor = num_workers, prefetch_factor
        self._loaded: Generator[StreamStep, None, None] | None = None
        self.step = 0
        self._cursor = self._plan.beginning(0)
        self._places: list[str] = []
        self.is_epoch_end = False

    @property
    def epoch(self) -> float:
        """Whole epochs done."""
        return float(self._cursor.epoch)

    def __iter__(self) -> StreamBatches:
        return self

    def __next__(self) -> list[MicroBatch]:
        if self._loaded is None:
            ahead = _Ahead(self._plan, self._cursor)
            self._loaded = load(ahead, repeat(None), self._num_workers, self._prefetch_factor)
        micro_batches, self._places, self._cursor, self.is_epoch_end = next(self._loaded)
        self.step += 1
        return micro_batches

    def skip_epoch(self) -> None:
        """Leave out what is left of the epoch under way."""
        self.close()
        if not self.is_epoch_end:
            self._cursor, self.is_epoch_end = self._plan.beginning(self._cursor.epoch + 1), True

    def places(self) -> list[str]:
        """Where the rows of the last step on this rank came from, as ``file:line``."""
        return self._places

    def state_dict(self) -> dict[str, Any]:
        """The position, JSON-able and the same on every rank."""
        return {
            "step": self.step,
            "is_epoch_end": self.is_epoch_end,
            "rows_per_step": self._plan.rows_per_step,
            "cursor": asdict(self._cursor),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position, whose block is then read again. CheckpointError if it is one of other data."""
        starts = state["cursor"]["starts"]
        now = len(self._plan.sources), self._plan.rows_per_step
        if (len(starts), state["rows_per_step"]) != now:
            raise CheckpointError(
                f"the data position was saved with {len(starts)} sources and {state['rows_per_step']} rows a "
                f"step, and there are {now[0]} and {now[1]} now; continue with the same, or start a new run."
            )
        self.close()
        self.step, self.is_epoch_end = state["step"], state["is_epoch_end"]
        found = tuple(None if start is None else Position(*start) for start in starts)
        self._cursor = Cursor(**{**state["cursor"], "starts": found})

    def close(self) -> None:
        """Stop the worker process; the next step starts it again."""
        if self._loaded is not None:
            self._loaded.close()
            self._loaded = None


def _with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last."""
    ahead = iter(items)
    for item in ahead:
        for following in ahead:
            yield item, False
            item = following
        yield item, True
