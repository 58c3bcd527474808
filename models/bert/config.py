"""The configuration of the BERT family.

Defaults are those of BERT base, as on the reference page ``model_doc/bert``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.encoder_config import EncoderConfig

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "minilm-l6": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
    },
    "bert-base": {},
    "bert-large": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """A BERT's shape and numerics; its positions count from 0."""

    model_type: ClassVar[str] = "bert"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
