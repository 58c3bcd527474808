"""Callbacks by name. A callback whose module needs no torch is its own options dataclass."""

from __future__ import annotations

from conf.plugins import lazy

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
__getattr__ = lazy(__name__, _PUBLIC)
__all__ = ["CATALOG", *_PUBLIC]
