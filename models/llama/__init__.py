"""The Llama family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from typing import Any

from conf.plugins import resolve

_NAMES = {
    "LlamaConfig": "models.llama.config:LlamaConfig",
    "LlamaModel": "models.llama.model:LlamaModel",
    "LlamaForCausalLM": "models.llama.tasks:LlamaForCausalLM",
    "LlamaForSequenceClassification": "models.llama.tasks:LlamaForSequenceClassification",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_NAMES[name])
