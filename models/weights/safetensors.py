"""Safetensors files: tensors read straight into their memory, and written as a stream to any binary file.

The format: 8 bytes with the little-endian length of a JSON header, the header padded with spaces to a
multiple of 8, then the tensors' bytes without gaps. Source: https://huggingface.co/docs/safetensors (metadata
parsing).
"""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from conf.errors import CheckpointError

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "U16": torch.uint16,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "F32": torch.float32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F64": torch.float64,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
CHUNK = 8 << 20  # bytes of one read; several threads share a large tensor
STAGED = 1 << 20  # bytes at a time of what is not read into its place: few, to stay in the cache


class WeightFiles:
    """The tensors of ``<stem>.safetensors``, or of the shards that ``<stem>.safetensors.index.json`` lists.

    With ``variant``, of ``<stem>.<variant>.safetensors``, as "fp16" of weights kept in several types. Opening
    reads the headers alone; what is read later lies in memory of torch's own (no mapping of the file stays
    behind, so files may be removed while the tensors live). ``CheckpointError`` for a folder without such
    files, a damaged or truncated file, or an index that names files elsewhere or tensors that are not there.
    """

    def __init__(self, folder: Path, stem: str = "model", variant: str | None = None):
        self.folder = Path(folder)
        single, index = file_name(f"{stem}.safetensors", variant), index_name(f"{stem}.safetensors", variant)
        if (self.folder / single).is_file():
            self._files = {single: _File(self.folder / single)}
            indexed: Mapping[str, str] = {}
        elif (self.folder / index).is_file():
            indexed = read_index(self.folder / index, ".safetensors")
            self._files = {name: _File(self.folder / name) for name in sorted(set(indexed.values()))}
        else:
            raise CheckpointError(_nothing_found(self.folder, single, index))
        self._where = {key: name for name, file in self._files.items() for key in file.entries}
        for key, name in indexed.items():
            if key not in self._files[name].entries:
                raise CheckpointError(
                    f"{self.folder / name} lacks the tensor {key}, which {index} says it holds."
                )
            self._where[key] = name

    @property
    def where(self) -> str:
        """What an error calls these files."""
        return str(self.folder)

    def keys(self) -> list[str]:
        """Every tensor's key, file by file."""
        return list(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def shape(self, key: str) -> torch.Size:
        """The shape of a tensor, from the header."""
        return self._entry(key).shape

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of a tensor, from the header; ``CheckpointError`` if torch has no such type."""
        code = self._entry(key).code
        if code not in DTYPES:
            raise CheckpointError(f"{self.folder / self._where[key]}: {key} has the unsupported type {code}.")
        return DTYPES[code]

    def get(self, key: str) -> Tensor:
        """Read a tensor, on the CPU; ``CheckpointError`` if the file cannot be read any more."""
        out = torch.empty(self.shape(key), dtype=self.dtype(key))
        for read in self.reads(key, out):
            read()
        return out

    def reads(self, key: str, out: Tensor) -> Iterator[Callable[[], object]]:
        """Calls, to be made in any order and by any threads, that fill ``out`` with a tensor of its shape.

        ``out`` may be on any device, of any type and strides. A call needs no memory of its own where the
        types agree, else ``STAGED`` bytes; as much as the tensor for an ``out`` that is not contiguous. They
        raise as ``get`` does.
        """
        out, dtype = out.detach(), self.dtype(key)
        if not out.is_contiguous():
            yield lambda: out.copy_(self.get(key))
            return
        flat, step = out.reshape(-1), CHUNK // dtype.itemsize
        for start in range(0, len(flat), step):
            yield partial(self._read, key, dtype, start, flat[start : start + step])

    def _read(self, key: str, dtype: torch.dtype, start: int, out: Tensor) -> None:
        """Elements from ``start`` on into a contiguous row ``out``."""
        file = self._files[self._where[key]]
        position = self._entry(key).position + start * dtype.itemsize
        try:
            if out.dtype == dtype and out.device.type == "cpu":
                file.read(position, _bytes(out))
                return
            staged = torch.empty(min(len(out), STAGED // dtype.itemsize), dtype=dtype)
            for part in out.split(len(staged)):
                file.read(position, _bytes(staged[: len(part)]))
                part.copy_(staged[: len(part)])
                position += len(part) * dtype.itemsize
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / self._where[key]}: {key} cannot be read: {error}."
            ) from error

    def _entry(self, key: str) -> _Entry:
        return self._files[self._where[key]].entries[key]


@dataclass(frozen=True)
class _Entry:
    """A tensor's line in the header; ``position`` counts bytes from the start of the file."""

    code: str
    shape: torch.Size
    position: int


class _File:
    """One open file. It is read and not mapped: a map's pages would count as this process's memory beside the
    tensors, and a file truncated meanwhile would kill the process instead of raising. The library, too, can
    read without a map, but into memory that is not aligned as torch aligns, and some kernels round
    differently by alignment.
    """

    def __init__(self, path: Path):
        assert sys.byteorder == "little", "bytes are taken as they are, and the format is little-endian"
        try:
            with safe_open(path, framework="pt", backend="pread"):
                pass  # the library's checks: whole, without gaps, each size that of its shape and type
            self._number = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._number)
            self.entries = self._header()
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing, though the index in its folder lists it.") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated: {error}.") from error

    def _header(self) -> dict[str, _Entry]:
        length = int.from_bytes(self._bytes(0, 8), "little")
        header = json.loads(self._bytes(8, length))
        header.pop("__metadata__", None)
        return {
            key: _Entry(entry["dtype"], torch.Size(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for key, entry in header.items()
        }

    def _bytes(self, position: int, count: int) -> bytes:
        content = bytearray(count)
        self.read(position, memoryview(content))
        return bytes(content)

    def read(self, position: int, memory: memoryview) -> None:
        """Fill memory with what stands from a position on; ``OSError`` if the file ends before."""
        while memory:
            count = os.preadv(self._number, [memory], position)
            if not count:
                raise OSError("the file is shorter than it was")
            memory, position = memory[count:], position + count


@dataclass(frozen=True, kw_only=True)
class Deferred:
    """A tensor to be written that is made when its turn comes, and dropped then."""

    shape: torch.Size
    dtype: torch.dtype
    make: Callable[[], Tensor]

    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize


Writable = Tensor | Deferred


def write_file(stream: BinaryIO, tensors: Mapping[str, Writable]) -> None:
    """Write one safetensors file; at most one tensor at a time is copied (to the CPU, or to be contiguous).

    The order is fixed by the tensors alone: wide types first, which keeps every tensor aligned, then by key.
    ``CheckpointError`` names a tensor of a type that the format lacks.
    """
    assert sys.byteorder == "little", "memory is written as it is, and the format is little-endian"
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, str(item[1].dtype), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key, tensor in ordered:
        if tensor.dtype not in CODES:
            raise CheckpointError(f"{key} has the type {tensor.dtype}, which safetensors files cannot hold.")
        end = start + tensor.nbytes
        header[key] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        stream.write(_bytes(_made(tensor)))  # no name keeps one while the next is made


def _made(tensor: Writable) -> Tensor:
    """Contiguous and on the CPU; the tensor itself if it is."""
    made = tensor.make() if isinstance(tensor, Deferred) else tensor
    return made.detach().to("cpu").contiguous()


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def file_name(name: str, variant: str | None) -> str:
    """``model.safetensors`` of a variant: ``model.fp16.safetensors``."""
    stem, _, kind = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{kind}"


def index_name(name: str, variant: str | None) -> str:
    """The index of the shards of ``model.safetensors``: ``model.safetensors.index.fp16.json``."""
    return file_name(f"{name}.index.json", variant)


def weight_files(name: str, variant: str | None) -> tuple[str, ...]:
    """Patterns of the files in which ``model.safetensors`` may lie: itself, or shards with their index."""
    single = file_name(name, variant)
    stem, _, kind = single.rpartition(".")
    return single, f"{stem}-?????-of-?????.{kind}", index_name(name, variant)


def read_index(path: Path, suffix: str) -> dict[str, str]:
    """Which file beside an index holds which tensor; ``CheckpointError`` for one that is elsewhere."""
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        pairs = [(str(key), Path(name)) for key, name in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged, or has no weight_map of tensors to files: {error!r}."
        ) from error
    for key, name in pairs:
        if len(name.parts) != 1 or name.name != str(name) or name.suffix != suffix:
            raise CheckpointError(
                f"{path} places {key} in {str(name)!r}, which is no {suffix[1:]} file beside it."
            )
    return {key: str(name) for key, name in pairs}


def _nothing_found(folder: Path, single: str, index: str) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder; weights are read from one that holds {single} or {index}."
    return f"{folder} holds neither {single} nor {index}."
