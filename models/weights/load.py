"""A checkpoint's weights into a model: read by several threads, straight into the model's memory."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from conf.errors import CheckpointError
from models.weights.converted import Converted, as_in_memory
from models.weights.keymap import KeyMap
from models.weights.names import Stored, keymap_of, stored_tensors
from models.weights.sources import GivenTensors, Source, open_weights

THREADS = 4
NUMBERS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SEQUENTIAL = "HF_DEACTIVATE_ASYNC_LOAD"  # the reference's variable: "1" reads one tensor after the other


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A tensor that the file has in another shape than the model; it was not loaded."""

    key: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What did not fit, by the files' keys: not in the files, only there, or there in another shape.

    Of a tensor that is made of several, those that are missing are named, and its own key if all are.
    ``unloaded`` are the model's names of the tensors that were left as they were, each tied one with all.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]
    unloaded: tuple[str, ...] = ()


def load_weights(
    model: nn.Module,
    source: Path | Source | Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> LoadReport:
    """Fill a model from a folder, from what ``open_weights`` gave, or from tensors by their checkpoint keys.

    Tensors on the meta device are made on ``device``, floating-point ones in ``dtype`` (default: the dtype
    they have on the meta device); real ones are overwritten where they are. Tied ones are read once, under
    whichever of their keys the files have, and stay tied. What is missing or of another shape is reported and
    left as it was; it is for the caller to judge. ``CheckpointError`` if the files cannot be used, hold
    quantized weights, or two different tensors for what is one in the model.

    Four threads read, none with ``HF_DEACTIVATE_ASYNC_LOAD=1``. Beside the weights they need memory for a
    chunk each where types differ, and for the largest conversion of what cannot be read into its place.
    """
    given = GivenTensors(source) if isinstance(source, Mapping) else source
    files = open_weights(given) if isinstance(given, Path) else given
    keymap = keymap_of(model)
    view = as_in_memory(files, keymap.converters, getattr(model, "config", None))
    key_of = _keys_by_name(view, keymap)
    _require_tables(model)
    used: set[str] = set()
    missing, mismatched, unloaded = list[str](), list[Mismatch](), list[str]()
    reads: list[Callable[[], object]] = []
    for stored in stored_tensors(model):
        keys = [key_of[name] for name in stored.names if name in key_of]
        wanted = [view.originals(key, stored.tensor.shape) for key in keys]
        used.update(*wanted)
        absent, wrong = _gaps(files, wanted[0]) if keys else ([keymap.to_checkpoint(stored.names[0])], [])
        if absent or wrong:
            missing += absent
            mismatched += wrong
            unloaded += stored.names
            continue
        if stored.tensor.is_floating_point():
            _require_numbers(files, wanted[0])
        _require_equal(view, keys)
        reads += view.reads(keys[0], _destination(model, stored, dtype, device))
    _call_all(reads)
    unexpected = (key for key in files.keys() if key not in used and not keymap.ignores(key))  # noqa: SIM118
    return LoadReport(
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        unloaded=tuple(unloaded),
    )


def _gaps(files: Source, wanted: Mapping[str, torch.Size]) -> tuple[list[str], list[Mismatch]]:
    """The keys that the files lack, and those of another shape."""
    absent = [key for key in wanted if key not in files]
    wrong = [
        Mismatch(key=key, expected=tuple(shape), found=tuple(files.shape(key)))
        for key, shape in wanted.items()
        if key in files and files.shape(key) != shape
    ]
    return absent, wrong


def _call_all(reads: Iterable[Callable[[], object]]) -> None:
    if os.environ.get(SEQUENTIAL, "").lower() in ("1", "true", "yes", "on"):
        for read in reads:
            read()
        return
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(operator.call, reads):  # the first failure is raised here and calls off the others
            pass


def _keys_by_name(files: Converted, keymap: KeyMap) -> dict[str, str]:
    """The files' key for each name of ours; today's spelling wins where they have a legacy one as well."""
    keys: dict[str, str] = {}
    for key in files.keys():  # noqa: SIM118
        name = keymap.from_checkpoint(key)
        if name is not None and (name not in keys or keymap.to_checkpoint(name) == key):
            keys[name] = key
    return keys


def _require_tables(model: nn.Module) -> None:
    """Buffers that are not saved must be real already: nothing in a file could fill them."""
    saved = model.state_dict(keep_vars=True)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in saved]
    assert not empty, f"computed and never saved, yet on the meta device: {empty}"


def _require_numbers(files: Source, keys: Iterable[str]) -> None:
    """Other types than these are codes that mean nothing without their scales, which no model here has."""
    for key in keys:
        if files.dtype(key) not in NUMBERS:
            raise CheckpointError(
                f"{files.where}: {key} is {str(files.dtype(key)).removeprefix('torch.')}; quantized weights "
                "are not read, take the files in bfloat16 or float32."
            )


def _require_equal(files: Source, keys: list[str]) -> None:
    for other in keys[1:]:
        if not torch.equal(files.get(keys[0]), files.get(other)):
            raise CheckpointError(
                f"{files.where} holds different tensors {keys[0]} and {other}, which are one in this model; "
                "set tie_word_embeddings to false in its config.json to keep both."
            )


def _destination(
    model: nn.Module, stored: Stored, dtype: torch.dtype | None, device: torch.device | str
) -> Tensor:
    """The tensor to read into: the model's own, or a new one that takes the place of a meta tensor."""
    old = stored.tensor
    if not old.is_meta:
        return old
    if dtype is None or not old.is_floating_point():
        dtype = old.dtype
    new = torch.empty(old.shape, dtype=dtype, device=device)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for name in stored.names:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, new)
    return new
