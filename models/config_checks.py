"""What a configuration's fields can be, checked for many families: each function lists the problems it finds.

A problem reads ``field: what is wrong``, as ``ModelConfig._refuse`` takes them. Nothing here imports torch.
"""

from __future__ import annotations

from typing import get_args

from models.config import Activation, ModelConfig


def sizes(config: ModelConfig, *names: str) -> list[str]:
    """Fields that count something of which there must be one."""
    return [
        f"{name}: must be at least 1, got {getattr(config, name)}"
        for name in names
        if getattr(config, name) < 1
    ]


def probabilities(config: ModelConfig, *names: str) -> list[str]:
    """Dropout probabilities; None is no problem."""
    return [
        f"{name}: must be in [0, 1), got {value}"
        for name in names
        if (value := getattr(config, name)) is not None and not 0 <= value < 1
    ]


def heads(config: ModelConfig) -> list[str]:
    """Whether the hidden size can be shared out among the attention heads."""
    number, width = config.num_attention_heads, config.hidden_size
    if width % number == 0:
        return []
    return [f"num_attention_heads: {number} does not divide hidden_size, which is {width}"]


def encoding(config: ModelConfig) -> list[str]:
    """Whether feed-forward blocks can be computed so, and positions are told by an embedding of each."""
    problems = []
    if config.chunk_size_feed_forward < 0:
        problems.append(f"chunk_size_feed_forward: must be at least 0, got {config.chunk_size_feed_forward}")
    kind = config.extra.get("position_embedding_type", "absolute")  # in older files
    if kind != "absolute":
        problems.append(f"position_embedding_type: only absolute positions can be read, got {kind!r}")
    return problems


def activation(config: ModelConfig) -> list[str]:
    """Whether ``hidden_act`` is one that there is."""
    if config.hidden_act in get_args(Activation):
        return []
    return [f"hidden_act: unknown {config.hidden_act!r}, known are {', '.join(get_args(Activation))}"]


def padding(config: ModelConfig) -> list[str]:
    """Whether ``pad_token_id``, where there is one, is a token."""
    if config.pad_token_id is None or 0 <= config.pad_token_id < config.vocab_size:
        return []
    return [f"pad_token_id: {config.pad_token_id} is outside the vocabulary of {config.vocab_size}"]
