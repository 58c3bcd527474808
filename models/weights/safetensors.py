"""Safetensors files: read one tensor at a time, written as a stream to any binary file.

The format: 8 bytes with the little-endian length of a JSON header, the header padded with spaces to a
multiple of 8, then the tensors' bytes without gaps. Source: https://huggingface.co/docs/safetensors (metadata
parsing).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
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


class WeightFiles:
    """The tensors of ``<stem>.safetensors``, or of the shards that ``<stem>.safetensors.index.json`` lists.

    Opening reads the headers alone; each ``get`` reads one tensor into memory of its own (no mapping of the
    file stays behind, so files may be removed while the tensors live). ``CheckpointError`` for a folder
    without such files, a damaged or truncated file, or an index that names files elsewhere or tensors that
    are not there.
    """

    def __init__(self, folder: Path, stem: str = "model"):
        self.folder = Path(folder)
        single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
        if (self.folder / single).is_file():
            self._files = {single: self._open(single)}
            indexed: Mapping[str, str] = {}
        elif (self.folder / index).is_file():
            indexed = _read_index(self.folder / index)
            self._files = {name: self._open(name) for name in sorted(set(indexed.values()))}
        else:
            raise CheckpointError(_nothing_found(self.folder, single, index))
        self._where = {key: name for name, file in self._files.items() for key in file.keys()}  # noqa: SIM118
        for key, name in indexed.items():
            if key not in self._files[name].keys():  # noqa: SIM118
                raise CheckpointError(
                    f"{self.folder / name} lacks the tensor {key}, which {index} says it holds."
                )
            self._where[key] = name

    def keys(self) -> list[str]:
        """Every tensor's key, file by file."""
        return list(self._where)

    def __contains__(self, key: object) -> bool:
        return key in self._where

    def shape(self, key: str) -> torch.Size:
        """The shape of a tensor, from the header."""
        return torch.Size(self._file(key).get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of a tensor, from the header; ``CheckpointError`` if torch has no such type."""
        code = self._file(key).get_slice(key).get_dtype()
        if code not in DTYPES:
            raise CheckpointError(f"{self.folder / self._where[key]}: {key} has the unsupported type {code}.")
        return DTYPES[code]

    def get(self, key: str) -> Tensor:
        """Read a tensor, on the CPU; ``CheckpointError`` if the file cannot be read any more."""
        try:
            return self._file(key).get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{self.folder / self._where[key]}: {key} cannot be read: {error}."
            ) from error

    def _file(self, key: str) -> Any:
        return self._files[self._where[key]]

    def _open(self, name: str) -> Any:
        path = self.folder / name
        try:
            # Not mapped, as it would be by default: a map's pages count as this process's memory beside the
            # tensors, and a file truncated meanwhile would kill the process instead of raising.
            return safe_open(path, framework="pt", backend="pread")
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing, though the index in its folder lists it.") from None
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or truncated: {error}.") from error


def write_file(stream: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
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
        stream.write(_bytes(tensor))


def _bytes(tensor: Tensor) -> memoryview:
    """The elements in row-major order; the tensor's own memory if it is contiguous and on the CPU."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        pairs = [(str(key), Path(name)) for key, name in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged, or has no weight_map of tensors to files: {error!r}."
        ) from error
    for key, name in pairs:
        if len(name.parts) != 1 or name.name != str(name) or name.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} places {key} in {str(name)!r}, which is no safetensors file beside it."
            )
    return {key: str(name) for key, name in pairs}


def _nothing_found(folder: Path, single: str, index: str) -> str:
    if not folder.is_dir():
        return f"{folder} is no folder; weights are read from one that holds {single} or {index}."
    pickles: Iterable[str] = sorted(path.name for path in folder.glob("*.bin"))
    found = f" Its {', '.join(pickles)} are pickles, which can run code and are not read." if pickles else ""
    return f"{folder} holds neither {single} nor {index}.{found}"
