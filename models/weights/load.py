"""A checkpoint's weights into a model, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from conf.errors import CheckpointError
from models.weights.keymap import KeyMap
from models.weights.names import Stored, keymap_of, stored_tensors
from models.weights.safetensors import WeightFiles


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A tensor that the file has in another shape than the model; it was not loaded."""

    key: str
    expected: tuple[int, ...]
    found: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What did not fit, by checkpoint keys: not in the files, only there, or there in another shape."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]


def load_weights(
    model: nn.Module,
    source: Path | WeightFiles,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> LoadReport:
    """Fill a model from a checkpoint folder; memory needed is the weights and one more tensor.

    Tensors on the meta device are made on ``device``, floating-point ones in ``dtype`` (default: the dtype
    they have on the meta device); real ones are overwritten where they are. Tied ones are read once, under
    whichever of their keys the files have, and stay tied. What is missing or of another shape is reported and
    left as it was; it is for the caller to judge. ``CheckpointError`` if the files cannot be used, or hold
    two different tensors for what is one in the model.
    """
    files = source if isinstance(source, WeightFiles) else WeightFiles(source)
    keymap = keymap_of(model)
    key_of = _keys_by_name(files, keymap)
    _require_tables(model)
    used: set[str] = set()
    missing: list[str] = []
    mismatched: list[Mismatch] = []
    for stored in stored_tensors(model):
        keys = [key_of[name] for name in stored.names if name in key_of]
        used.update(keys)
        if not keys:
            missing.append(keymap.to_checkpoint(stored.names[0]))
        elif (found := files.shape(keys[0])) != stored.tensor.shape:
            mismatched.append(Mismatch(key=keys[0], expected=tuple(stored.tensor.shape), found=tuple(found)))
        else:
            _require_equal(files, keys)
            _fill(model, stored, files.get(keys[0]), dtype, device)
    unexpected = (key for key in files.keys() if key not in used and not keymap.ignores(key))  # noqa: SIM118
    return LoadReport(missing=tuple(missing), unexpected=tuple(unexpected), mismatched=tuple(mismatched))


def _keys_by_name(files: WeightFiles, keymap: KeyMap) -> dict[str, str]:
    """The file's key for each name of ours; today's spelling wins where a file has a legacy one as well."""
    keys: dict[str, str] = {}
    for key in files.keys():  # noqa: SIM118
        name = None if keymap.ignores(key) else keymap.from_checkpoint(key)
        if name is not None and (name not in keys or keymap.to_checkpoint(name) == key):
            keys[name] = key
    return keys


def _require_tables(model: nn.Module) -> None:
    """Buffers that are not saved must be real already: nothing in a file could fill them."""
    saved = model.state_dict(keep_vars=True)
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta and name not in saved]
    assert not empty, f"computed and never saved, yet on the meta device: {empty}"


def _require_equal(files: WeightFiles, keys: list[str]) -> None:
    for other in keys[1:]:
        if not torch.equal(files.get(keys[0]), files.get(other)):
            raise CheckpointError(
                f"{files.folder} holds different tensors {keys[0]} and {other}, which are one in this model; "
                "set tie_word_embeddings to false in its config.json to keep both."
            )


@torch.no_grad()
def _fill(
    model: nn.Module, stored: Stored, value: Tensor, dtype: torch.dtype | None, device: torch.device | str
) -> None:
    old = stored.tensor
    if not old.is_meta:
        old.copy_(value)
        return
    if dtype is None or not old.is_floating_point():
        dtype = old.dtype
    # A copy into torch's own memory, though the types may agree: what a file reader returns is not aligned as
    # torch aligns, and some kernels round differently by alignment.
    new = torch.empty(old.shape, dtype=dtype, device=device)
    new.copy_(value)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for name in stored.names:
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, new)
