"""Durable folders: written beside their final place, hashed, flushed to disk, renamed once.

A reader sees such a folder whole or not at all, whatever kills the writer and whenever. ``MANIFEST.json``,
written last, lists every file with its size and sha256, so that later damage is found and named as well::

    with publish(run / "checkpoint-500", about={"step": 500}) as folder:
        with folder.open("model.safetensors") as stream:
            ...
        folder.write_json("trainer_state.json", state)

One process writes a folder. While it does, it holds a lock on the staging folder, which the system drops when
the process dies, so that ``clean_leftovers`` tells an abandoned folder from one in use without trusting
process numbers, which are used again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from conf.errors import CheckpointError
from trainer.hashing import CHUNK, FileRecord, HashingFile, record_of

MANIFEST = "MANIFEST.json"
TRAINING = "training"  # the folder of a checkpoint that is a matter of resuming
STAGING = ".staging-"
DELETING = ".deleting-"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a published folder by relative path, and what its writer wanted known about it."""

    files: Mapping[str, FileRecord]
    about: Mapping[str, Any] = field(default_factory=dict)

    def dumps(self) -> str:
        """The text of ``MANIFEST.json``; it carries a checksum of itself."""
        files = {name: {"size": r.size, "sha256": r.sha256} for name, r in sorted(self.files.items())}
        about = json.loads(json.dumps(dict(self.about)))  # as a reader will see it: keys are strings
        body = {"version": VERSION, "about": about, "files": files}
        return json.dumps(body | {"checksum": _checksum(body)}, indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest; ``CheckpointError`` if it is missing, damaged or of another version."""
        path = folder / MANIFEST
        try:
            body = json.loads(path.read_bytes())
            checksum = body.pop("checksum")
            if checksum != _checksum(body):
                raise ValueError("its checksum does not fit its content")
            if body["version"] != VERSION:
                raise ValueError(f"it has version {body['version']}, this program reads version {VERSION}")
            records = body["files"].items()
            files = {_relative(name): FileRecord(size=r["size"], sha256=r["sha256"]) for name, r in records}
            return cls(files=files, about=body["about"])
        except (FileNotFoundError, NotADirectoryError):
            reason = "has no MANIFEST.json, so it was never completed" if folder.is_dir() else "is no folder"
            raise CheckpointError(f"{folder} {reason}.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} cannot be used: {error}.") from error


class Folder:
    """A folder being written; ``publish`` makes it, and gives it its manifest and its name at the end.

    ``path`` is where the files are for now, for code that can only save into a folder by itself: files that
    appear there without passing through this object are hashed when the folder is published.
    """

    def __init__(self, path: Path):
        self.path = path
        self._records: dict[str, FileRecord] = {}
        self._unfinished: set[str] = set()

    def open(self, relpath: str) -> BinaryIO:
        """A new file for binary writing, as a context manager; its folders are made as needed.

        Leaving the ``with`` block by an exception removes the file again.
        """
        path = self._new(relpath)
        self._unfinished.add(relpath)
        return cast(BinaryIO, HashingFile(path, lambda record: self._finish(relpath, record)))

    def write_text(self, relpath: str, text: str) -> None:
        """Write ``text`` as UTF-8."""
        with self.open(relpath) as stream:
            stream.write(text.encode())

    def write_json(self, relpath: str, value: Any) -> None:
        """Write ``value`` as indented JSON."""
        self.write_text(relpath, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def link(self, relpath: str, existing: Path) -> None:
        """Take over a file that will never be written again, by hard link or, where there are none, by copy.

        If it lies in a published folder its hash is taken from that manifest, else it is read once.
        """
        existing = Path(existing).resolve()
        path = self._new(relpath)
        try:
            os.link(existing, path)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
            with existing.open("rb") as source, self.open(relpath) as target:
                shutil.copyfileobj(source, target, CHUNK)
        else:
            self._finish(relpath, _known_record(existing))

    def _new(self, relpath: str) -> Path:
        path = self.path / _relative(relpath)
        if relpath == MANIFEST or path.exists():
            raise ValueError(f"{relpath} is already in {self.path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _finish(self, relpath: str, record: FileRecord | None) -> None:
        self._unfinished.discard(relpath)
        if record is not None:
            self._records[relpath] = record

    def _seal(self, about: Mapping[str, Any]) -> Manifest:
        """Hash what was put here by others, flush it and every folder, and write the manifest."""
        if self._unfinished:
            raise ValueError(f"still open when {self.path} was to be published: {sorted(self._unfinished)}")
        folders = [self.path]
        for path in sorted(self.path.rglob("*")):
            relpath = path.relative_to(self.path).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path} is neither a folder nor an ordinary file")
            if path.is_dir():
                folders.append(path)
            elif relpath not in self._records:
                self._records[relpath] = record_of(path)
                _sync(path)
        manifest = Manifest(files=dict(self._records), about=dict(about))
        with HashingFile(self.path / MANIFEST, lambda record: None) as stream:
            stream.write(manifest.dumps().encode())
        for folder in reversed(folders):
            _sync(folder)
        return manifest


@contextmanager
def publish(path: Path, *, about: Mapping[str, Any] | None = None) -> Iterator[Folder]:
    """Write the folder ``path``: it appears whole when the block ends, or not at all when the block raises.

    A folder of that name is replaced (the case: it was damaged, and the run has come to that step again).
    ``about`` is free-form JSON kept in the manifest. Errors of the block, a full disk among them, pass on
    after the staging folder is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging, lock = _stage(path)
    try:
        try:
            folder = Folder(staging)
            yield folder
            folder._seal(about or {})
            _move_into_place(staging, path)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def verify(path: Path, *, full: bool = True) -> Manifest:
    """Check a published folder against its manifest; ``CheckpointError`` names the first file that is wrong.

    ``full=False`` compares sizes only, which finds missing and truncated files but no changed bytes. Files
    that the manifest does not list are none of its business.
    """
    path = Path(path)
    manifest = Manifest.load(path)
    for relpath, record in manifest.files.items():
        file = path / relpath
        try:
            size = file.stat().st_size
            if size != record.size:
                short = "truncated" if size < record.size else "too long"
                raise CheckpointError(f"{file} is {short}: {size} bytes of {record.size}.")
            if full and record_of(file).sha256 != record.sha256:
                raise CheckpointError(f"{file} is damaged: its content does not fit the manifest's sha256.")
        except FileNotFoundError:
            raise CheckpointError(f"{file} is missing.") from None
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    return manifest


def files_of_model(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that are no matter of resuming, which is what loads anywhere."""
    others = (checkpoint / MANIFEST, checkpoint / "trainer_state.json")
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path not in others)
    return sorted(path for path in files if checkpoint / TRAINING not in path.parents)


def remove(path: Path) -> None:
    """Delete a folder: a hidden name first, then its files, so that half of one is never taken for whole."""
    shutil.rmtree(_hide(path), ignore_errors=True)


def move_up(staged: Path, target: Path) -> None:
    """Move the files of a published model folder into ``target``, over those of an older model.

    The configuration comes last, so that a cut leaves no half model. ``staged`` is gone afterwards.
    """
    files = sorted(
        (path for path in staged.rglob("*") if path.is_file() and path.name != MANIFEST),
        key=lambda file: file.name == "config.json",
    )
    names = {file.name for file in files}
    for old in target.glob("model*.safetensors*"):
        if old.name not in names:
            old.unlink()
    for file in files:
        place = target / file.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
    shutil.rmtree(staged)


def clean_leftovers(run_dir: Path) -> list[Path]:
    """Remove what dead processes left half-written or half-deleted in ``run_dir``; returns what was removed.

    A staging folder whose writer still lives is left alone.
    """
    removed = []
    for path in sorted(Path(run_dir).glob(f"{STAGING}*")):
        if _remove_abandoned(path):
            removed.append(path)
    for path in sorted(Path(run_dir).glob(f"{DELETING}*")):
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def require_space(path: Path, num_bytes: int, *, margin: float = 0.05) -> None:
    """``CheckpointError`` unless ``num_bytes``, and a margin as a fraction of them, are free for ``path``."""
    existing = Path(path).absolute()
    while not existing.exists():
        existing = existing.parent
    status = os.statvfs(existing)
    free = status.f_bavail * status.f_frsize
    needed = int(num_bytes * (1 + margin))
    if free < needed:
        raise CheckpointError(
            f"{path} needs {needed:,} bytes and its disk has {free:,} free: nothing was written; free some "
            "space, or keep fewer checkpoints (checkpoint.save_total_limit)."
        )


def _stage(path: Path) -> tuple[Path, int]:
    """A new locked staging folder for ``path``, and the descriptor that holds its lock."""
    while True:
        staging = path.parent / f"{STAGING}{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
        staging.mkdir()
        # Another process's cleaning may come before the lock is held: then once more.
        with suppress(FileNotFoundError):
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
            _lock(descriptor, fcntl.LOCK_EX)
            if staging.exists():
                return staging, descriptor
            os.close(descriptor)


def _remove_abandoned(staging: Path) -> bool:
    """Remove a staging folder unless its writer lives; the lock is held meanwhile, so none starts in it."""
    try:
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False  # published or removed since it was listed
    try:
        _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(staging, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _lock(descriptor: int, operation: int) -> None:
    """``flock``; on a file system without locks it does nothing, so there every staging folder looks free."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF):
            raise


def _move_into_place(staging: Path, path: Path) -> None:
    replaced = _hide(path) if path.exists() else None
    try:
        os.rename(staging, path)
    except BaseException:
        if replaced is not None:
            os.rename(replaced, path)
        raise
    _sync(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced, ignore_errors=True)


def _hide(path: Path) -> Path:
    hidden = path.parent / f"{DELETING}{path.name}-{secrets.token_hex(4)}"
    os.rename(path, hidden)
    return hidden


def _relative(relpath: str) -> str:
    parts = PurePosixPath(relpath)
    if not relpath or parts.is_absolute() or ".." in parts.parts or str(parts) != relpath:
        raise ValueError(f"{relpath!r} is no plain relative path")
    return relpath


def _known_record(path: Path) -> FileRecord | None:
    """The record of a file in the published folder that holds it, if one does and the size still fits."""
    for folder in path.parents:
        if (folder / MANIFEST).is_file():
            record = Manifest.load(folder).files.get(path.relative_to(folder).as_posix())
            return record if record and record.size == path.stat().st_size else None
    return None


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
