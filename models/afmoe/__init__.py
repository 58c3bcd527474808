"""The AFMoE family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "AfmoeConfig": "models.afmoe.config",
    "AfmoeForCausalLM": "models.afmoe.tasks",
    "AfmoeModel": "models.afmoe.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
