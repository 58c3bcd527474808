"""Which tensors of a model are stored, and under which keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from models.weights.keymap import KeyMap


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One parameter or persistent buffer and all its names in the model; several when it is tied."""

    names: tuple[str, ...]
    tensor: Tensor


def stored_tensors(model: nn.Module) -> list[Stored]:
    """Every parameter and persistent buffer once, in the model's order; tied ones by identity."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert isinstance(tensor, Tensor), f"{name} keeps extra state, which a weights file cannot hold"
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return [Stored(names=tuple(names[key]), tensor=tensors[key]) for key in tensors]


def keymap_of(model: nn.Module) -> KeyMap:
    """The model's ``keymap``."""
    keymap = getattr(model, "keymap", None)
    assert isinstance(keymap, KeyMap), (
        f"{type(model).__name__} has no `keymap` that says how its keys are named"
    )
    return keymap


def checkpoint_names(model: nn.Module) -> dict[str, str]:
    """The key of each parameter and persistent buffer by its name in the model; a tied one only by its first.

    ``ValueError`` if two of them would have one key.
    """
    keymap = keymap_of(model)
    keys = {stored.names[0]: keymap.to_checkpoint(stored.names[0]) for stored in stored_tensors(model)}
    if len(set(keys.values())) != len(keys):
        raise ValueError(f"ambiguous renames: two parameters share a key among {sorted(keys.values())}")
    return keys


def named_checkpoint_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of everything that is saved, in the model's order; tied tensors once; no copies."""
    keys = checkpoint_names(model)
    for stored in stored_tensors(model):
        yield keys[stored.names[0]], stored.tensor
