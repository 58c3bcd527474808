"""Documents of any length into rows of one length, with next to nothing left empty.

Best-fit decreasing: the longest document first, each into the fullest row that still has room. Documents of
one length and rows with one amount of room are interchangeable, so whole groups are placed at a time, and the
work grows with the number of distinct lengths instead of the number of documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """Which documents share a row: row ``i`` holds ``documents[offsets[i]:offsets[i + 1]]``, ascending."""

    offsets: np.ndarray  # (rows + 1,) int64
    documents: np.ndarray  # (documents,) int64, each exactly once
    capacity: int
    efficiency: float  # share of the rows' tokens that is filled, 0 to 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.documents[self.offsets[row] : self.offsets[row + 1]]


def pack(lengths: np.ndarray, capacity: int) -> PackedRows:
    """Pack documents of these ``lengths`` (tokens, each 1 to ``capacity``) into rows of ``capacity`` tokens.

    The rows are those of best-fit decreasing, the same for the same lengths. Within a row the documents keep
    their order in the data, so nothing in a row tells of its documents' lengths.
    """
    lengths = np.asarray(lengths)
    assert lengths.min() >= 1, "documents are not empty"
    assert lengths.max() <= capacity, f"a document of {lengths.max()} tokens does not fit {capacity}"
    longest_first = np.argsort(-lengths.astype(np.int32), kind="stable")
    row_of = np.empty(len(lengths), dtype=np.int64)
    rooms = _Rooms(capacity)
    placed = 0
    counts = np.bincount(lengths)
    for length in np.flatnonzero(counts)[::-1].tolist():
        for rows in rooms.place(length, int(counts[length])):
            row_of[longest_first[placed : placed + len(rows)]] = rows
            placed += len(rows)
    offsets = np.zeros(rooms.num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of, minlength=rooms.num_rows), out=offsets[1:])
    return PackedRows(
        offsets=offsets,
        documents=np.argsort(row_of, kind="stable"),
        capacity=capacity,
        efficiency=float(lengths.sum(dtype=np.int64) / (rooms.num_rows * capacity)),
    )


class _Rooms:
    """The rows opened so far, grouped by the room left in them."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.num_rows = 0
        self._groups: dict[int, list[np.ndarray]] = {}
        self._present = 0  # bit r is set while some row has room r: finds the best fit without a search

    def place(self, length: int, count: int) -> Iterator[np.ndarray]:
        """Place ``count`` documents of one ``length``; yields the row of each, in groups.

        The best fit stays the best fit until it has no room for another, because what room it has left is
        less than any other row's that fits: so a row takes as many of the documents as it can hold at once.
        """
        while count:
            fitting = self._present >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                each = room // length
                rows = self._take(room, -(-count // each))
            else:
                room, each = self.capacity, self.capacity // length
                rows = np.arange(self.num_rows, self.num_rows + -(-count // each))
                self.num_rows += len(rows)
            full, rest = divmod(min(count, each * len(rows)), each)
            self._put(room - each * length, rows[:full])
            if rest:
                self._put(room - rest * length, rows[full:])
            yield np.repeat(rows, each)[: full * each + rest]
            count -= full * each + rest

    def _take(self, room: int, wanted: int) -> np.ndarray:
        """Remove up to ``wanted`` of the rows that have exactly this room."""
        group = self._groups[room]
        taken: list[np.ndarray] = []
        while wanted and group:
            rows = group.pop()
            if len(rows) > wanted:
                group.append(rows[wanted:])
                rows = rows[:wanted]
            taken.append(rows)
            wanted -= len(rows)
        if not group:
            del self._groups[room]
            self._present &= ~(1 << room)
        return np.concatenate(taken)

    def _put(self, room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            self._groups.setdefault(room, []).append(rows)
            self._present |= 1 << room
