"""Weights on disk: checkpoint names, safetensors files, and models loaded from and saved to them."""

from __future__ import annotations

from typing import Any

from conf.plugins import resolve

_EXPORTS = {
    "KeyMap": "models.weights.keymap:KeyMap",
    "WeightFiles": "models.weights.safetensors:WeightFiles",
    "LoadReport": "models.weights.load:LoadReport",
    "Mismatch": "models.weights.load:Mismatch",
    "load_weights": "models.weights.load:load_weights",
    "save_weights": "models.weights.save:save_weights",
    "save_tensors": "models.weights.save:save_tensors",
    "checkpoint_names": "models.weights.names:checkpoint_names",
    "named_checkpoint_tensors": "models.weights.names:named_checkpoint_tensors",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_EXPORTS[name])
