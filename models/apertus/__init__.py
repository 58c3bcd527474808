"""The Apertus family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "ApertusConfig": "models.apertus.config",
    "ApertusForCausalLM": "models.apertus.tasks",
    "ApertusForTokenClassification": "models.apertus.tasks",
    "ApertusModel": "models.apertus.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
