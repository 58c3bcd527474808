"""A file's size and sha256, taken while it is written or from what is on disk."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 18  # bytes hashed, then written, at a time: small enough to stay in the processor's cache


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """What a manifest says of one file: its size in bytes and the hexadecimal sha256 of its content."""

    size: int
    sha256: str


class HashingFile(io.RawIOBase):
    """A new file that is hashed while it is written and flushed to disk when it is closed."""

    def __init__(self, path: Path, finished: Callable[[FileRecord | None], None]):
        self._path = path
        self._finished = finished  # called once with the FileRecord, or with None if writing failed
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._stream = io.BufferedWriter(io.FileIO(path, "x"), buffer_size=CHUNK)

    def writable(self) -> bool:
        """Always: this is a file for writing."""
        return True

    def tell(self) -> int:
        """Number of bytes written so far."""
        return self._size

    def write(self, data: Any) -> int:
        """Hash and write all of ``data`` (any contiguous buffer); returns its length in bytes."""
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        for start in range(0, view.nbytes, CHUNK):
            chunk = view[start : start + CHUNK]
            self._sha256.update(chunk)
            self._stream.write(chunk)
        self._size += view.nbytes
        return view.nbytes

    def close(self) -> None:
        """Flush to disk and report the file's size and hash; a file that cannot be flushed is removed."""
        if self.closed:
            return
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except BaseException:
            self._discard()
            raise
        self._stream.close()
        super().close()
        self._finished(FileRecord(size=self._size, sha256=self._sha256.hexdigest()))

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._stream.raw.close()  # not the buffered stream: closing that would try to write the rest
        super().close()
        self._finished(None)


def record_of(path: Path) -> FileRecord:
    """The record of a file as it is on disk."""
    with path.open("rb", buffering=0) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileRecord(size=stream.tell(), sha256=digest)
