"""A model's weights, or any named tensors, as safetensors files; split into shards when large."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import BinaryIO

from torch import Tensor, nn

from conf.errors import ConfigError
from models.weights.names import named_checkpoint_tensors
from models.weights.safetensors import write_file

Open = Callable[[str], BinaryIO]  # a new file for binary writing by its path inside the checkpoint
MAX_SHARD_SIZE = "50GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save_weights(model: nn.Module, open: Open, *, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
    """Write ``model.safetensors``, or shards and their index, under checkpoint keys; tied tensors once.

    ``open(relpath)`` gives the files. No second copy of the model is made: one tensor at a time at most.
    """
    save_tensors(named_checkpoint_tensors(model), open, max_shard_size=max_shard_size)


def save_tensors(
    named_tensors: Iterable[tuple[str, Tensor]],
    open: Open,
    *,
    stem: str = "model",
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Write (key, tensor) pairs as ``<stem>.safetensors``, or as ``<stem>-00001-of-00002.safetensors`` ...

    ``stem`` may lead into a folder: ``training/optimizer``, read by ``WeightFiles(training, "optimizer")``.
    A shard holds at most ``max_shard_size`` (bytes, or as in ``"5GB"``) unless a single tensor is larger; an
    index then says which file holds what. Files, order and bytes depend on the tensors alone.
    """
    shards = _split(named_tensors, parse_size(max_shard_size))
    if len(shards) == 1:
        with open(f"{stem}.safetensors") as stream:
            write_file(stream, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        with open(name) as stream:
            write_file(stream, shard)
        weight_map.update(dict.fromkeys(shard, PurePosixPath(name).name))  # shards lie beside their index
    tensors = [tensor for shard in shards for tensor in shard.values()]
    index = {
        "metadata": {
            "total_parameters": sum(tensor.numel() for tensor in tensors),
            "total_size": sum(tensor.nbytes for tensor in tensors),
        },
        "weight_map": weight_map,
    }
    with open(f"{stem}.safetensors.index.json") as stream:
        stream.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def parse_size(size: int | str) -> int:
    """Bytes of ``1000``, ``"5GB"`` (powers of 1000) or ``"5GiB"`` (of 1024); else a ``ConfigError``."""
    match = re.fullmatch(r"(\d+) ?([A-Z]*)", str(size).upper())
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ConfigError(f"max_shard_size: {size!r} is no size; write a number of bytes, or one like '5GB'.")
    return int(match[1]) * _UNITS[match[2]]


def _split(named_tensors: Iterable[tuple[str, Tensor]], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, a new shard whenever the next one would make the last too large."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in named_tensors:
        assert not any(key in shard for shard in shards), f"two tensors are called {key}"
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    return shards
