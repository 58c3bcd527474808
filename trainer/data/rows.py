"""The rows of a training: documents of several sources, mixed by weight and packed if asked, by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from conf.errors import DataError
from trainer.data.cache import Document, TokenRows
from trainer.data.order import mixture
from trainer.data.packing import PackedRows, pack


class Rows(Protocol):
    """Rows by number, as the streams of batches want them.

    ``foreign``: whether reading and collating them may draw from the global random generators.
    """

    foreign: ClassVar[bool]

    def __len__(self) -> int: ...
    def documents(self, row: int) -> Sequence[Mapping[str, Any]]: ...
    def numbers(self, row: int) -> list[int]: ...
    def places(self, row: int) -> list[str]: ...


class RowSet:
    """What one epoch holds: each row is one document or, packed, several documents up to ``capacity`` tokens.

    Attributes: ``lengths`` and ``supervised``, (rows,) int64, tokens and targets in each row; ``efficiency``,
    the share of a packed row that is filled, 1.0 without packing.
    """

    foreign: ClassVar[bool] = False

    def __init__(
        self,
        sources: Sequence[TokenRows],
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        capacity: int | None = None,
    ):
        """Mix ``sources`` by ``weights`` (see ``order.mixture``); pack to ``capacity`` tokens unless None."""
        self.sources = tuple(sources)
        weights = [1.0] * len(self.sources) if weights is None else weights
        self._source, self._index = mixture([len(source) for source in self.sources], weights, seed)
        lengths = self._of_documents([source.lengths for source in self.sources])
        supervised = self._of_documents([source.supervised for source in self.sources])
        self.packed: PackedRows | None = None if capacity is None else pack(lengths, capacity)
        self.lengths, self.supervised = self._of_rows(lengths), self._of_rows(supervised)
        self.efficiency = 1.0 if self.packed is None else self.packed.efficiency

    def _of_documents(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """A per-document array of each source -> one array over the documents of the mixture, int64."""
        chosen = [array[self._index[self._source == number]] for number, array in enumerate(values)]
        return np.concatenate(chosen).astype(np.int64)

    def _of_rows(self, values: np.ndarray) -> np.ndarray:
        if self.packed is None:
            return values
        return np.add.reduceat(values[self.packed.documents], self.packed.offsets[:-1])

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_documents(self) -> int:
        """Documents in one epoch, each as often as its source's weight says."""
        return len(self._index)

    def numbers(self, row: int) -> list[int]:
        """The numbers of the documents in a row, by which random collators are keyed."""
        return [row] if self.packed is None else self.packed[row].tolist()

    def documents(self, row: int) -> list[Document]:
        """The documents of a row."""
        return [self.sources[source].document(index) for source, index in self._origins(row)]

    def places(self, row: int) -> list[str]:
        """Where each document of a row came from, as ``file:line``."""
        return [self.sources[source].place(index) for source, index in self._origins(row)]

    def _origins(self, row: int) -> Iterator[tuple[int, int]]:
        """The source and the number within it of each document of a row."""
        numbers = self.numbers(row)
        return zip(self._source[numbers].tolist(), self._index[numbers].tolist(), strict=True)


def rows_without_target(rows: RowSet) -> list[str]:
    """The raw rows (``file:line``) none of whose documents has a supervised token; empty if all is well."""
    places: list[str] = []
    for source in rows.sources:
        empty = np.flatnonzero(source.supervised == 0)
        if empty.size:
            raw = source.same_row()
            targets = np.bincount(raw, weights=source.supervised)
            places += dict.fromkeys(source.place(i) for i in empty.tolist() if targets[raw[i]] == 0)
    return places


def require_targets(rows: RowSet) -> None:
    """``DataError`` naming the first of the raw rows that nothing can be learned from."""
    if places := rows_without_target(rows):
        shown = ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
        raise DataError(
            f"{shown}: no token of these rows is supervised; remove them, or raise data.max_length."
        )
