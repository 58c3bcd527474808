"""Models: families of backbones, heads for tasks, and how the two are composed, loaded and saved.

Importing this package loads no torch; names load on first use.
"""

from __future__ import annotations

from typing import Any

from conf.plugins import resolve

# Families, by the ``model_type`` of their configurations: the configuration and the backbone.
CATALOG = {
    "llama": ("models.llama.config:LlamaConfig", "models.llama.model:LlamaModel"),
}

# Heads, by the task that objectives ask for.
HEADS = {
    "causal_lm": "models.heads.causal_lm:CausalLMHead",
    "sequence_classification": "models.heads.sequence_classification:SequenceClassificationHead",
}

_NAMES = {
    "AutoConfig": "models.config:AutoConfig",
    "AutoModel": "models.auto:AutoModel",
    "AutoModelForCausalLM": "models.auto:AutoModelForCausalLM",
    "AutoModelForSequenceClassification": "models.auto:AutoModelForSequenceClassification",
    "DynamicCache": "models.layers.cache:DynamicCache",
    "LlamaConfig": "models.llama.config:LlamaConfig",
    "LlamaForCausalLM": "models.llama.tasks:LlamaForCausalLM",
    "LlamaForSequenceClassification": "models.llama.tasks:LlamaForSequenceClassification",
    "LlamaModel": "models.llama.model:LlamaModel",
    "ModelConfig": "models.config:ModelConfig",
    "ModelOutput": "models.outputs:ModelOutput",
    "TaskModel": "models.task_model:TaskModel",
    "build_model": "models.auto:build_model",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(_NAMES[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
