"""Callbacks by name. A callback whose module needs no torch is its own options dataclass."""

from __future__ import annotations

from importlib import import_module
from typing import Any

CATALOG = {
    "early_stopping": "callbacks.early_stopping:EarlyStoppingCallback",
    "progress": "callbacks.progress:ProgressCallback",
    "samples": "callbacks.samples:SamplesCallback",
}

_PUBLIC = {
    "DefaultFlowCallback": "callbacks.default_flow",
    "EarlyStoppingCallback": "callbacks.early_stopping",
    "ProgressCallback": "callbacks.progress",
    "SamplesCallback": "callbacks.samples",
}
__all__ = ["CATALOG", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'callbacks' has no attribute {name!r}")
