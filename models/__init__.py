"""Models: families of backbones, heads for tasks, and how the two are composed, loaded and saved.

Importing this package loads no torch; names load on first use.
"""

from __future__ import annotations

from conf.plugins import lazy

# Families, by the ``model_type`` of their configurations: the configuration and the backbone.
CATALOG = {
    "llama": ("models.llama.config:LlamaConfig", "models.llama.model:LlamaModel"),
}

# Heads, by the task that objectives ask for.
HEADS = {
    "causal_lm": "models.heads.causal_lm:CausalLMHead",
    "sequence_classification": "models.heads.sequence_classification:SequenceClassificationHead",
}

_PUBLIC = {
    "AutoConfig": "models.config",
    "AutoModel": "models.auto",
    "AutoModelForCausalLM": "models.auto",
    "AutoModelForSequenceClassification": "models.auto",
    "DynamicCache": "models.layers.cache",
    "LlamaConfig": "models.llama.config",
    "LlamaForCausalLM": "models.llama.tasks",
    "LlamaForSequenceClassification": "models.llama.tasks",
    "LlamaModel": "models.llama.model",
    "ModelConfig": "models.config",
    "ModelOutput": "models.outputs",
    "TaskModel": "models.task_model",
    "build_model": "models.auto",
}
__getattr__ = lazy(__name__, _PUBLIC)
