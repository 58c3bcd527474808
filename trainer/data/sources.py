"""Raw rows and where they stand: local files of five kinds, folders and patterns of them, hub data sets.

A row's place is its file and line. For ``.parquet`` and hub data sets the line is the row's number, from 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from glob import escape, glob, has_magic
from hashlib import file_digest, sha256
from math import inf
from pathlib import Path
from typing import Any, Literal, NamedTuple

from conf.errors import ConfigError, DataError
from trainer.data.files import READERS, Position, UnreadableRowError

SUFFIXES = tuple(READERS)


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """One data source of a recipe, as it stands there under its name."""

    path: str
    """A .jsonl, .json, .csv, .parquet or .txt file, a folder or pattern of such files, or a hub data set."""
    format: str
    """What its rows are; a name of ``processors.FORMATS``."""
    weight: float = 1.0
    """How often an epoch sees each row: 2 is twice, 0.5 is one half of the rows."""
    split: str | None = None
    """Which split of a hub data set; "train" when not given."""
    config: str | None = None
    """Which configuration of a hub data set."""
    sample_by: Literal["line", "paragraph", "document"] | None = None
    """What makes a row of a .txt file; "paragraph" (ended by a blank line) when not given."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns under another name: the name that the format reads -> the name in the data."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < inf:
            raise ConfigError(f"weight: {self.weight} is not above 0; leave the source out to not use it.")


class Row(NamedTuple):
    """A raw row, where it stands, and where the row after it begins."""

    values: dict[str, Any]
    file: str
    line: int
    next: Position


def find_files(path: str, roots: Sequence[str | Path] = ()) -> list[Path]:
    """The files that ``path`` means, sorted; empty if there are none, so that it may be a hub data set.

    Looked up in the current folder first, then in each of ``roots``; the first place that has any wins.
    Folders are read with their subfolders; of folders and patterns only files of known kinds count, and no
    hidden ones.
    """
    for root in (Path(), *map(Path, roots)):
        place = root / path
        if place.is_file():
            return [place]
        pattern = f"{escape(str(place))}/**" if place.is_dir() else str(place)
        found = map(Path, glob(pattern, recursive=True))
        files = sorted(file for file in found if file.is_file() and file.suffix in SUFFIXES)
        if files:
            return files
        if place.is_dir():
            raise DataError(f"{place}: this folder holds no file ending in {', '.join(SUFFIXES)}.")
    if has_magic(path) or path.endswith(SUFFIXES):
        looked = ", ".join(str(Path(root).resolve()) for root in (Path(), *roots))
        raise DataError(f"{path}: there is no such file; looked in {looked}.")
    return []


class Source:
    """A data source whose files were found: an iterable of its rows, from any position on.

    Raises ConfigError for options that its kind of data does not have, DataError where nothing is found.
    """

    def __init__(self, options: SourceOptions, roots: Sequence[str | Path] = ()):
        self.options = options
        self.files = find_files(options.path, roots)
        for file in self.files:
            if file.suffix not in READERS:
                raise DataError(f"{file}: its name ends in none of {', '.join(SUFFIXES)}.")
        self._check_options()

    def _check_options(self) -> None:
        options, path = self.options, self.options.path
        problems = [
            f"{path}: {name}={value!r} is for hub data sets, and these are local files; leave it out."
            for name, value in (("split", options.split), ("config", options.config))
            if value is not None and self.files
        ]
        if options.sample_by and not any(file.suffix == ".txt" for file in self.files):
            problems.append(f"{path}: sample_by={options.sample_by!r} is for .txt files; leave it out.")
        if problems:
            raise ConfigError(problems)

    def fingerprint(self) -> list[Any]:
        """Everything that decides the rows, JSON-able: the bytes of the files and how they are read."""
        options = self.options
        if self.files:
            content: list[Any] = [[file.suffix, _digest(file)] for file in self.files]
        else:
            hub = self._hub()
            content = [options.path, options.config, self._split, hub._fingerprint]
        names = [str(file) for file in self.files]  # a part of it, as the cache tells the places of its rows
        return [content, names, options.sample_by, sorted(options.columns.items())]

    def rows(self, start: Position | None = None) -> Iterator[Row]:
        """Every row from ``start`` on. Raises DataError with file and line where one cannot be read."""
        found = self._local_rows(start or Position(0, 0, 1)) if self.files else self._hub_rows(start)
        return map(self._renamed, found) if self.options.columns else found

    def _local_rows(self, start: Position) -> Iterator[Row]:
        for number in range(start.file, len(self.files)):
            file = self.files[number]
            offset, line = (start.offset, start.line) if number == start.file else (0, 1)
            read = READERS[file.suffix](file, offset, line, self.options.sample_by or "paragraph")
            try:
                for values, line, next_offset, next_line in read:
                    if not isinstance(values, dict):
                        raise UnreadableRowError(line, f"a row must be an object, not {_kind(values)}")
                    yield Row(values, str(file), line, Position(number, next_offset, next_line))
            except UnreadableRowError as problem:
                raise DataError(f"{file}:{problem.line}: {problem}.") from None
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror}.") from error

    @property
    def _split(self) -> str:
        return self.options.split or "train"

    def _hub(self, streaming: bool = False) -> Any:
        """The data set of this name through ``datasets``, imported only here because it is slow to."""
        import datasets

        options = self.options
        try:
            return datasets.load_dataset(options.path, options.config, split=self._split, streaming=streaming)
        except Exception as error:  # its own errors, the network's and pyarrow's have no common class
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise DataError(
                f"{options.path}: no such file or folder here, and not to be had as a hub data set: {reason}"
            ) from error

    def _hub_rows(self, start: Position | None) -> Iterator[Row]:
        """The rows of a hub data set; from a position on they are streamed and those before it skipped."""
        name = f"{self.options.path}[{self._split}]"
        first = start.offset if start else 0
        data = self._hub(streaming=True).skip(first) if start else self._hub()
        for number, values in enumerate(data, first + 1):
            yield Row(values, name, number, Position(0, number, number + 1))

    def _renamed(self, row: Row) -> Row:
        new_names = self.options.columns
        missing = [given for given in new_names.values() if given not in row.values]
        if missing:
            known = ", ".join(row.values)
            raise DataError(f"{row.file}:{row.line}: there is no column {missing[0]!r}; there are {known}.")
        kept = {name: value for name, value in row.values.items() if name not in new_names.values()}
        return row._replace(values=kept | {name: row.values[given] for name, given in new_names.items()})


def read_rows(options: SourceOptions, roots: Iterable[str | Path] = ()) -> Iterator[Row]:
    """Every row of a source with its file and line; see ``Source`` for the errors."""
    return Source(options, tuple(roots)).rows()


def _digest(file: Path) -> str:
    status = file.stat()
    return _digest_as_of(file, status.st_size, status.st_mtime_ns)


@cache
def _digest_as_of(file: Path, size: int, modified: int) -> str:
    """sha256 of a file, read once in a process while its size and time stay the same."""
    with file.open("rb") as opened:
        return file_digest(opened, sha256).hexdigest()


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
