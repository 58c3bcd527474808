"""The stream of optimizer steps over sources that are never read as a whole: tokenized block by block.

A block is the next ``block_rows`` raw rows, taken evenly from the sources that still have some. Its documents
are packed among themselves if asked, and its rows shuffled by a key of (seed, epoch, block). What a block
gives depends on where it begins alone, so a position is that beginning and how many of the rows were used,
and to resume is to read one block again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from conf.errors import CheckpointError, DataError
from trainer.data.batches import Collator, shares_of, with_key
from trainer.data.cache import count_supervised
from trainer.data.files import Position
from trainer.data.loading import Loading, Silence, silenced
from trainer.data.order import Bijection, key
from trainer.data.packing import pack
from trainer.data.sequential import EpochCursor, SequentialBatches, SequentialStep, with_last
from trainer.data.sources import Row, Source
from trainer.data.tokenizing import Format, encoded, with_targets


@dataclass(frozen=True, kw_only=True)
class Cursor(EpochCursor):
    """A position: a block, where each source stood as it began (None: at its end), and rows of it used."""

    block: int
    starts: tuple[Position | None, ...]
    used: int = 0


class PlacedDocument(NamedTuple):
    """A document and the ``file:line`` of its raw row."""

    document: dict[str, Any]
    place: str


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
        silence: Silence,
    ):
        self.sources, self.collator, self.seed, self.silence = sources, collator, seed, silence
        self.per_device, self.rank, self.world_size = per_device_batch_size, rank, world_size
        self.items_per_step = per_device_batch_size * accumulation * world_size
        self.capacity, self.shuffle, self.block_rows = capacity, shuffle, block_rows
        self.keyed = getattr(collator, "random", False)

    def beginning(self, epoch: int) -> Cursor:
        return Cursor(epoch=epoch, block=0, starts=(Position(0, 0, 1),) * len(self.sources))

    def cursor(self, saved: dict[str, Any]) -> Cursor:
        starts = tuple(None if start is None else Position(*start) for start in saved["starts"])
        return Cursor(**{**saved, "starts": starts})

    def resplit(self, per_device_batch_size: int, accumulation: int) -> None:
        assert per_device_batch_size * accumulation * self.world_size == self.items_per_step
        self.per_device = per_device_batch_size

    def refuse_other_data(self, state: dict[str, Any]) -> None:
        sources, rows = len(state["cursor"]["starts"]), state["items_per_step"]
        now = len(self.sources), self.items_per_step
        if (sources, rows) != now:
            raise CheckpointError(
                f"the data position was saved with {sources} sources and {rows} rows a step, and there are "
                f"{now[0]} and {now[1]} now; continue with the same, or start a new run."
            )

    def steps(self, cursor: Cursor) -> Iterator[SequentialStep[Cursor]]:
        """Every step after a position, epoch after epoch."""
        while True:
            rows = with_last(self._rows(cursor))
            found = False
            while step := list(islice(rows, self.items_per_step)):
                found = True
                (_, after), last = step[-1]
                after = self.beginning(cursor.epoch + 1) if last else after
                yield self._step([documents for (documents, _), _ in step], after, last)
            if not found:
                names = ", ".join(source.options.path for source, _ in self.sources)
                raise DataError(f"{names}: there is not one row with text in it.")
            cursor = self.beginning(cursor.epoch + 1)

    def _step(self, rows: list[list[PlacedDocument]], after: Cursor, last: bool) -> SequentialStep[Cursor]:
        micro_batches, places = [], []
        for own, silent in shares_of(
            rows, per_device=self.per_device, rank=self.rank, world_size=self.world_size
        ):
            batch = self.collator([placed.document for row in own for placed in row])
            micro_batches.append(self.silence(batch) if silent else batch)
            places += [] if silent else [placed.place for row in own for placed in row]
        return SequentialStep(micro_batches, places, after, last)

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


class StreamBatches(SequentialBatches[Cursor]):
    """An endless stream of optimizer steps like ``Batches``, over rows read and tokenized on the way.

    How many rows there are shows only at their end, so ``steps_per_epoch`` is None and ``epoch`` counts whole
    epochs. A source's weight w repeats each of its rows floor(w) times and a keyed share w - floor(w) of them
    once more. One worker process at most reads ahead. A row without a supervised token is a DataError.
    """

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
        pin_memory: bool = False,
        persistent_workers: bool = False,
        silence: Silence = silenced,
    ):
        """Pack to ``capacity`` tokens unless None. Raises ConfigError for more than one worker."""
        plan = StreamPlan(
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
            silence=silence,
        )
        loading = Loading(
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
        )
        super().__init__(plan, loading)
