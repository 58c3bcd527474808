"""The Llama family; names load on first use, so that importing this package loads no torch."""

from __future__ import annotations

from conf.plugins import lazy

_PUBLIC = {
    "LlamaConfig": "models.llama.config",
    "LlamaModel": "models.llama.tasks",
    "LlamaForCausalLM": "models.llama.tasks",
    "LlamaForSequenceClassification": "models.llama.tasks",
}
__getattr__ = lazy(__name__, _PUBLIC)
