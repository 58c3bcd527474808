"""Where weights come from: safetensors files, pickled checkpoints of plain tensors, or tensors at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from conf.errors import CheckpointError
from models.weights.safetensors import WeightFiles, file_name, index_name, read_index

BIN = "pytorch_model.bin"
SAFE = "model.safetensors"


class Source(Protocol):
    """Tensors by key; shapes and types are known before a tensor is read."""

    @property
    def where(self) -> str:
        """What an error calls it."""

    def keys(self) -> Sequence[str]: ...
    def __contains__(self, key: object) -> bool: ...
    def shape(self, key: str) -> torch.Size: ...
    def dtype(self, key: str) -> torch.dtype: ...
    def get(self, key: str) -> Tensor: ...
    def reads(self, key: str, out: Tensor) -> Iterator[Callable[[], object]]:
        """Calls that fill ``out``, a tensor of that shape, in any order and by any threads."""


class GivenTensors:
    """Tensors in memory, as of a ``state_dict``; they are copied and never changed."""

    def __init__(self, tensors: Mapping[str, Tensor], where: str = "state_dict"):
        self._tensors, self.where = tensors, where

    def keys(self) -> list[str]:
        return list(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> torch.Size:
        return self._tensors[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors[key].dtype

    def get(self, key: str) -> Tensor:
        """The tensor itself, not to be written to."""
        return self._tensors[key].detach()

    def reads(self, key: str, out: Tensor) -> Iterator[Callable[[], object]]:
        yield partial(out.detach().copy_, self.get(key))


def open_weights(
    folder: Path, *, use_safetensors: bool | None = None, variant: str | None = None
) -> WeightFiles | GivenTensors:
    """The weights of a folder, from safetensors files, else from ``pytorch_model.bin`` or its shards.

    ``use_safetensors`` True or False allows one kind only. ``variant`` "fp16" asks for
    ``model.fp16.safetensors``. ``CheckpointError`` for a folder without such files, for damaged ones, and for
    pickles of anything but plain tensors: those could run code, and are not read.
    """
    folder = Path(folder)
    has_safe, has_bin = (
        any((folder / of(name, variant)).is_file() for of in (file_name, index_name)) for name in (SAFE, BIN)
    )
    if use_safetensors is False or (use_safetensors is None and has_bin and not has_safe):
        return _open_bin(folder, variant)
    if use_safetensors and has_bin and not has_safe:
        raise CheckpointError(
            f"{folder} holds no {file_name(SAFE, variant)}, only {file_name(BIN, variant)}; "
            "leave out use_safetensors: true to read it."
        )
    return WeightFiles(folder, variant=variant)


def _open_bin(folder: Path, variant: str | None) -> GivenTensors:
    single, index = folder / file_name(BIN, variant), folder / index_name(BIN, variant)
    if single.is_file():
        return GivenTensors(_read_bin(single), str(folder))
    if not index.is_file():
        raise CheckpointError(f"{folder} holds neither {single.name} nor {index.name}.")
    indexed = read_index(index, ".bin")
    shards = {name: _read_bin(folder / name) for name in sorted(set(indexed.values()))}
    tensors = {key: tensor for shard in shards.values() for key, tensor in shard.items()}
    for key, name in indexed.items():
        if key not in shards[name]:
            raise CheckpointError(
                f"{folder / name} lacks the tensor {key}, which {index.name} says it holds."
            )
        tensors[key] = shards[name][key]
    return GivenTensors(tensors, str(folder))


def _read_bin(path: Path) -> dict[str, Tensor]:
    """A dictionary of tensors whose bytes stay in the file until read; torch < 1.6's files are read whole."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, though the index in its folder lists it.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # a damaged pickle may fail in any way
        raise CheckpointError(
            f"{path} is damaged, or holds more than plain tensors, which could run code and is not read."
        ) from error
    if not isinstance(content, Mapping) or not all(map(_is_plain, content.keys(), content.values())):
        raise CheckpointError(f"{path} holds something else than tensors by their names.")
    return dict(content)


def _is_plain(key: object, value: Any) -> bool:
    return isinstance(key, str) and type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
