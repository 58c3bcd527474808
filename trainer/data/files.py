"""Readers of local files, one for each kind, all seekable to a row.

A reader is called as ``reader(path, offset, line, sample_by)`` and yields tuples ``(row, line, next_offset,
next_line)``. Where an offset points is the reader's own affair (a byte, or the number of rows passed); the
one that comes with a row starts the reader at the row after it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

ROWS_AT_ONCE = 256  # of a parquet file, decoded together

FoundRow = tuple[Any, int, int, int]


class Position(NamedTuple):
    """Where in a source a row begins: the number of the file, the reader's offset, the line. JSON-able."""

    file: int
    offset: int
    line: int


class UnreadableRowError(Exception):
    """A row that cannot be read: in which line of the file, and why."""

    def __init__(self, line: int, reason: str):
        self.line = line
        super().__init__(reason)


class _Lines:
    """The decoded lines of a text file from a byte on, keeping count of bytes and lines taken."""

    def __init__(self, path: Path, offset: int, line: int):
        self.path, self.offset, self.line = path, offset, line

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for raw in file:
                try:
                    text = raw.decode("utf-8-sig" if self.offset == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UnreadableRowError(
                        self.line, f"byte {error.start + 1} of the line is not UTF-8"
                    ) from None
                self.offset += len(raw)
                self.line += 1
                yield text


def read_jsonl(path: Path, offset: int, line: int, sample_by: str) -> Iterator[FoundRow]:
    """One JSON object a line; blank lines are passed over."""
    lines = _Lines(path, offset, line)
    for text in lines:
        if text.strip():
            try:
                values = json.loads(text.rstrip())
            except ValueError as error:
                column = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                raise UnreadableRowError(lines.line - 1, f"not valid JSON{column}") from None
            yield values, lines.line - 1, lines.offset, lines.line


def read_json(path: Path, offset: int, line: int, sample_by: str) -> Iterator[FoundRow]:
    """One JSON list of objects; an offset counts characters. The file is held in memory as text."""
    text = "".join(_Lines(path, 0, 1))
    decode = json.JSONDecoder().raw_decode
    at = offset
    if offset == 0:
        at = _past_space(text, 0)
        if text[at : at + 1] != "[":
            raise UnreadableRowError(
                1, "a .json file must hold one list of objects; one object a line is .jsonl"
            )
        line, at = _next_line(text, 0, at + 1, line)
    while text[at : at + 1] != "]":
        try:
            values, end = decode(text, at)
        except json.JSONDecodeError as error:
            raise UnreadableRowError(error.lineno, f"not valid JSON at character {error.colno}") from None
        end = _past_space(text, end)
        if text[end : end + 1] not in ("]", ","):
            raise UnreadableRowError(line + text.count("\n", at, end), "a comma or the list's end is missing")
        next_line, next_at = _next_line(text, at, end + (text[end] == ","), line)
        yield values, line, next_at, next_line
        line, at = next_line, next_at


def _past_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _next_line(text: str, start: int, at: int, line: int) -> tuple[int, int]:
    """The line and place of the next character that is no space, counted on from ``start`` in ``line``."""
    at = _past_space(text, at)
    return line + text.count("\n", start, at), at


def read_csv(path: Path, offset: int, line: int, sample_by: str) -> Iterator[FoundRow]:
    """Comma-separated values under a header line; every value is a string."""
    csv.field_size_limit(2**31 - 1)  # the default of 128 KB is less than a long document
    header = _Lines(path, 0, 1)
    names = next(_csv_values(header), (1, []))[1]
    if not names or len(set(names)) < len(names):
        raise UnreadableRowError(1, "a .csv file begins with a line of column names, each different")
    lines = _Lines(path, offset, line) if offset else _Lines(path, header.offset, header.line)
    for first, values in _csv_values(lines):
        if values and len(values) != len(names):
            raise UnreadableRowError(first, f"{len(values)} values under {len(names)} column names")
        if values:
            yield dict(zip(names, values, strict=True)), first, lines.offset, lines.line


def _csv_values(lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """The values of each record with its first line; a quoted value may run over several lines."""
    records = csv.reader(lines, strict=True)
    while True:
        first = lines.line
        try:
            values = next(records, None)
        except csv.Error as error:
            raise UnreadableRowError(first, f"not valid CSV: {error}") from None
        if values is None:
            return
        yield first, values


def read_txt(path: Path, offset: int, line: int, sample_by: str) -> Iterator[FoundRow]:
    """Rows ``{"text": ...}``: each line, each paragraph (ended by a blank line) or the whole file."""
    if sample_by == "document":
        if offset == 0:
            text = "".join(_Lines(path, 0, 1))
            if text.strip():
                yield {"text": text.strip("\r\n")}, 1, len(text), 1
        return
    lines = _Lines(path, offset, line)
    gathered: list[str] = []
    for text in lines:
        if text.strip():
            gathered.append(text)
        if gathered and (sample_by == "line" or not text.strip()):
            first = lines.line - len(gathered) - (not text.strip())
            yield {"text": "".join(gathered).rstrip()}, first, lines.offset, lines.line
            gathered.clear()
    if gathered:
        yield {"text": "".join(gathered).rstrip()}, lines.line - len(gathered), lines.offset, lines.line


def read_parquet(path: Path, offset: int, line: int, sample_by: str) -> Iterator[FoundRow]:
    """Rows of a parquet file; an offset counts rows, and whole row groups before it are not read."""
    import pyarrow
    from pyarrow import parquet

    number = offset
    try:
        with parquet.ParquetFile(path) as file:
            groups, passed = list(range(file.num_row_groups)), 0
            while groups and passed + file.metadata.row_group(groups[0]).num_rows <= offset:
                passed += file.metadata.row_group(groups.pop(0)).num_rows
            batches = file.iter_batches(ROWS_AT_ONCE, row_groups=groups) if groups else ()
            rows = (row for batch in batches for row in batch.to_pylist())
            for values in islice(rows, offset - passed, None):
                number += 1
                yield values, number, number, number + 1
    except pyarrow.ArrowException as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UnreadableRowError(number + 1, f"not valid parquet: {reason}") from None


READERS: dict[str, Callable[[Path, int, int, str], Iterator[FoundRow]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".txt": read_txt,
}
