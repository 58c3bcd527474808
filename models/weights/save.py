"""A model's weights, or any named tensors, as safetensors files; split into shards when large."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import BinaryIO

from torch import nn

from conf.errors import ConfigError
from models.weights.converted import original_layout
from models.weights.names import keymap_of, named_checkpoint_tensors
from models.weights.safetensors import Writable, file_name, index_name, write_file

Open = Callable[[str], BinaryIO]  # a new file for binary writing by its path inside the checkpoint
MAX_SHARD_SIZE = "50GB"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save_weights(
    model: nn.Module,
    open: Open,
    *,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    variant: str | None = None,
    save_original_format: bool = True,
) -> None:
    """Write ``model.safetensors``, or shards and their index, under checkpoint keys; tied tensors once.

    ``open(relpath)`` gives the files, ``variant`` "fp16" puts itself into their names. Tensors are laid out
    as the family's published checkpoints are, or as in memory without ``save_original_format``; both load.
    No second copy of the model is made: one tensor at a time at most.
    """
    named: Iterable[tuple[str, Writable]] = named_checkpoint_tensors(model)
    if save_original_format:
        converters, config = keymap_of(model).converters, getattr(model, "config", None)
        named = original_layout(named_checkpoint_tensors(model), converters, config)
    save_tensors(named, open, max_shard_size=max_shard_size, variant=variant)


def save_tensors(
    named_tensors: Iterable[tuple[str, Writable]],
    open: Open,
    *,
    stem: str = "model",
    max_shard_size: int | str = MAX_SHARD_SIZE,
    variant: str | None = None,
) -> None:
    """Write (key, tensor) pairs as ``<stem>.safetensors``, or as ``<stem>-00001-of-00002.safetensors`` ...

    ``stem`` may lead into a folder: ``training/optimizer``, read by ``WeightFiles(training, "optimizer")``.
    A shard holds at most ``max_shard_size`` (bytes, or as in ``"5GB"``) unless a single tensor is larger; an
    index then says which file holds what. Files, order and bytes depend on the tensors alone.
    """
    shards = _split(named_tensors, parse_size(max_shard_size))
    single = f"{stem}.safetensors"
    whole = file_name(single, variant)
    if len(shards) == 1:
        with open(whole) as stream:
            write_file(stream, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{whole.removesuffix('.safetensors')}-{number:05d}-of-{len(shards):05d}.safetensors"
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
    with open(index_name(single, variant)) as stream:
        stream.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def parse_size(size: int | str) -> int:
    """Bytes of ``1000``, ``"5GB"`` (powers of 1000) or ``"5GiB"`` (of 1024); else a ``ConfigError``."""
    match = re.fullmatch(r"(\d+) ?([A-Z]*)", str(size).upper())
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ConfigError(f"max_shard_size: {size!r} is no size; write a number of bytes, or one like '5GB'.")
    return int(match[1]) * _UNITS[match[2]]


def _split(named_tensors: Iterable[tuple[str, Writable]], limit: int) -> list[dict[str, Writable]]:
    """Tensors in their order, a new shard whenever the next one would make the last too large."""
    shards: list[dict[str, Writable]] = [{}]
    size = 0
    for key, tensor in named_tensors:
        assert not any(key in shard for shard in shards), f"two tensors are called {key}"
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    return shards
