"""The configuration of the XLM-RoBERTa family.

Defaults are the reference's (``XLMRobertaConfig``), which are BERT base's but for the special tokens; the
shapes that were published are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models.encoder_config import EncoderConfig

PUBLISHED: dict[str, Any] = {
    "vocab_size": 250002,
    "max_position_embeddings": 514,  # 512 tokens: positions count from pad_token_id + 1
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        **PUBLISHED,
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "small": {
        **PUBLISHED,
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "xlm-roberta-base": PUBLISHED,
    "xlm-roberta-large": {
        **PUBLISHED,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}


@dataclass(frozen=True, kw_only=True)
class XLMRobertaConfig(EncoderConfig):
    """An XLM-RoBERTa's shape and numerics; its positions count from ``pad_token_id`` + 1."""

    model_type: ClassVar[str] = "xlm-roberta"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2

    @property
    def head_activation(self) -> str:
        """The activation in the head of masked words, whatever that of the layers is."""
        return "gelu"

    def _value_problems(self) -> list[str]:
        problems = super()._value_problems()
        if self.pad_token_id is None:
            problems.append("pad_token_id: positions count from it, so there must be one")
        elif self.max_position_embeddings <= self.pad_token_id + 1:
            problems.append(
                f"max_position_embeddings: positions begin at pad_token_id + 1 = {self.pad_token_id + 1}, "
                f"{self.max_position_embeddings} leaves none"
            )
        return problems
