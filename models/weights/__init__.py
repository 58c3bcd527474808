"""Weights on disk: checkpoint names, safetensors files, and models loaded from and saved to them."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "KeyMap": "models.weights.keymap",
    "WeightFiles": "models.weights.safetensors",
    "GivenTensors": "models.weights.sources",
    "open_weights": "models.weights.sources",
    "WeightConverter": "models.weights.conversion",
    "WeightRenaming": "models.weights.conversion",
    "Chunk": "models.weights.conversion",
    "Concatenate": "models.weights.conversion",
    "MergeModulelist": "models.weights.conversion",
    "SplitModulelist": "models.weights.conversion",
    "PermuteForRope": "models.weights.conversion",
    "original_layout": "models.weights.converted",
    "LoadReport": "models.weights.load",
    "Mismatch": "models.weights.load",
    "load_weights": "models.weights.load",
    "save_weights": "models.weights.save",
    "save_tensors": "models.weights.save",
    "checkpoint_names": "models.weights.names",
    "named_checkpoint_tensors": "models.weights.names",
}
__getattr__ = lazy(__name__, _PUBLIC)
