"""The token cache: documents on disk as plain ``.npy`` columns, mapped into memory to be read.

One folder holds one tokenized source::

    input_ids.values.npy  loss_mask.values.npy ...   the documents' columns, end to end
    offsets.npy       (documents + 1,) int64          document i is values[offsets[i]:offsets[i + 1]]
    supervised.npy    (documents,) int32              how many of its tokens are targets
    places.npy        (documents, 2) int64            the file (by number) and line it came from
    meta.json         file names, columns, the report of the tokenization; written last

The folder's name says what is in it (``content_key``), so nothing in it is ever changed: it is written beside
under another name and renamed once. Of two processes that write the same folder one is first, and the other
throws its own away.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Mapping
from fcntl import LOCK_EX, flock
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np

CODE_VERSION = 1  # raise it when the same rows would now give other documents or other files
LOCK = ".lock"  # the file beside the folders that whoever publishes one holds
DOCUMENTS_AT_ONCE = 4096  # entries of the per-document arrays held back before they are written

Document = dict[str, np.ndarray]


def content_key(**parts: Any) -> str:
    """The name of a cache folder: sha256 over everything that decides its content, as JSON-able values."""
    text = json.dumps({"code_version": CODE_VERSION, **parts}, sort_keys=True, ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file of a finished cache, each of the size it was written with."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        return all((folder / name).stat().st_size == size for name, size in meta["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_once(folder: Path, fill: Callable[[TokenWriter], Mapping[str, Any]]) -> dict[str, Any]:
    """Make ``folder`` complete, calling ``fill(writer)`` for its content if it is not; returns the report.

    ``fill`` adds the documents and returns the report to keep, JSON-able. Whatever stops it, nothing is left
    behind. A folder in which a file is missing or cut short is replaced.
    """
    if not is_complete(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        staging = folder.with_name(f"{_staging_prefix(folder)}{os.getpid()}-{secrets.token_hex(4)}")
        staging.mkdir()
        try:
            with TokenWriter(staging) as writer:
                writer.finish(fill(writer))
            _publish(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return json.loads((folder / "meta.json").read_bytes())["report"]


def _publish(staging: Path, folder: Path) -> None:
    """Rename ``staging`` to ``folder`` unless another process has completed ``folder`` meanwhile."""
    with (folder.parent / LOCK).open("ab") as lock:
        flock(lock, LOCK_EX)  # until it is closed: nobody completes what is found damaged here
        if not is_complete(folder):
            if folder.exists():
                damaged = staging.with_name(staging.name + "-damaged")
                folder.rename(damaged)
                shutil.rmtree(damaged)
            staging.rename(folder)


def _staging_prefix(folder: Path) -> str:
    return f".{folder.name}-{socket.gethostname()}-"


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes of this machine left of their attempts at this folder."""
    prefix = _staging_prefix(folder)
    for staging in folder.parent.glob(prefix + "*"):
        try:
            os.kill(int(staging.name.removeprefix(prefix).split("-")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(staging, ignore_errors=True)
        except (PermissionError, ValueError):
            continue


class _Column:
    """An ``.npy`` file that grows: its header is written last, when the number of entries is known."""

    HEADER_BYTES = 128

    def __init__(self, path: Path, dtype: np.dtype, width: tuple[int, ...] = ()):
        self.path, self.dtype, self.width = path, np.dtype(dtype), width
        self._file: IO[bytes] = path.open("wb")
        self._file.write(bytes(self.HEADER_BYTES))

    def append(self, values: Any) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)

    def close(self) -> None:
        entry_bytes = self.dtype.itemsize * int(np.prod(self.width))
        entries = (self._file.tell() - self.HEADER_BYTES) // entry_bytes
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (entries, *self.width)}
        # .npy version 1.0: magic, version, header length (2 bytes), the header padded and ended by a newline
        start = b"\x93NUMPY\x01\x00" + (self.HEADER_BYTES - 10).to_bytes(2, "little")
        text = repr(header).encode().ljust(self.HEADER_BYTES - 11) + b"\n"
        self._file.seek(0)
        self._file.write(start + text)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


class TokenWriter:
    """Takes documents one by one and writes them as they come, in bounded memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_documents = self.num_tokens = self.num_supervised = self.longest = 0
        self._columns: dict[str, _Column] = {}
        self._per_document = {
            "offsets": _Column(folder / "offsets.npy", np.dtype(np.int64)),
            "supervised": _Column(folder / "supervised.npy", np.dtype(np.int32)),
            "places": _Column(folder / "places.npy", np.dtype(np.int64), (2,)),
        }
        self._pending: dict[str, list[Any]] = {"offsets": [0], "supervised": [], "places": []}
        self._files: dict[str, int] = {}

    def add(self, document: Document, file: str, line: int) -> None:
        """Append a document (1-D columns of one length, the same columns and types every time)."""
        tokens = len(document["input_ids"])
        assert tokens > 0, f"{file}:{line}: an empty document"
        if not self._columns:
            self._columns = {
                name: _Column(self.folder / f"{name}.values.npy", values.dtype)
                for name, values in document.items()
            }
        assert document.keys() == self._columns.keys(), f"{file}:{line}: other columns than before"
        for name, values in document.items():
            column = self._columns[name]
            found = values.shape, values.dtype
            assert found == ((tokens,), column.dtype), f"{file}:{line}: {name} is {found}"
            column.append(values)
        supervised = count_supervised(document)
        self.num_documents += 1
        self.num_tokens += tokens
        self.num_supervised += supervised
        self.longest = max(self.longest, tokens)
        self._pending["offsets"].append(self.num_tokens)
        self._pending["supervised"].append(supervised)
        self._pending["places"].append((self._files.setdefault(file, len(self._files)), line))
        if len(self._pending["supervised"]) >= DOCUMENTS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        for name, values in self._pending.items():
            self._per_document[name].append(values)
            values.clear()

    def finish(self, report: Mapping[str, Any]) -> None:
        """Close the columns and write ``meta.json``, which makes the folder complete."""
        assert self.num_documents, "a cache holds at least one document"
        self._flush()
        columns = [*self._columns.values(), *self._per_document.values()]
        for column in columns:
            column.close()
        meta = {
            "files": list(self._files),
            "columns": list(self._columns),
            "sizes": {column.path.name: column.path.stat().st_size for column in columns},
            "report": dict(report),
        }
        with (self.folder / "meta.json").open("w", encoding="utf-8") as file:
            json.dump(meta, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for column in [*self._columns.values(), *self._per_document.values()]:
            column.abandon()


def count_supervised(document: Document) -> int:
    """How many targets a document has; its first token is never one, as nothing stands before it."""
    return int(np.count_nonzero(document["loss_mask"][1:]))


class TokenRows:
    """The documents of a cache folder, read where they lie: nothing is loaded before it is used.

    Safe to share with worker processes (they map the same files; only the folder's name is sent).
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        meta = json.loads((self.folder / "meta.json").read_bytes())
        self.report: dict[str, Any] = meta["report"]
        self._files: list[str] = meta["files"]
        self._offsets = self._map("offsets")
        self._places = self._map("places")
        self._values = {name: self._map(f"{name}.values") for name in meta["columns"]}
        self.supervised = self._map("supervised")  # (documents,) int32

    def _map(self, name: str) -> np.ndarray:
        # as a plain array: slices of a memmap object are several times slower to make
        return np.load(self.folder / f"{name}.npy", mmap_mode="r").view(np.ndarray)

    def __reduce__(self) -> tuple[type[TokenRows], tuple[Path]]:
        return TokenRows, (self.folder,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens in each document, (documents,) int32."""
        return np.diff(self._offsets).astype(np.int32)

    def document(self, index: int) -> Document:
        """The columns of one document: read-only views into the files."""
        start, stop = self._offsets[index : index + 2].tolist()
        return {name: values[start:stop] for name, values in self._values.items()}

    def place(self, index: int) -> str:
        """Where the document came from, as ``file:line``."""
        file, line = self._places[index]
        return f"{self._files[file]}:{line}"

    def same_row(self) -> np.ndarray:
        """For each document a number shared by the documents of one raw row and no others, (documents,)."""
        changes = np.any(np.diff(self._places, axis=0) != 0, axis=1)
        return np.concatenate([[0], np.cumsum(changes)])
