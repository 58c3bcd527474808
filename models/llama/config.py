"""The configuration of the Llama family: Llama, Llama 2, Llama 3 and what shares their architecture.

Defaults are those of Llama 2 7B, as on the reference page ``model_doc/llama2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models import config_checks as checks
from models.decoder_config import DecoderConfig

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "tinyllama-1.1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
    },
    "llama2-7b": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "llama3-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """A Llama's shape and numerics.

    ``pretraining_tp`` above 1 computes the linear layers in that many slices, as the original training did.
    Raises ``ConfigError`` listing every field that cannot be.
    """

    model_type: ClassVar[str] = "llama"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    pretraining_tp: int = 1
    mlp_bias: bool = False

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        data = super()._modernize(data)
        if data.get("pad_token_id") == -1:  # how the first Llama files said that there is none
            data["pad_token_id"] = None
        return data

    def _shape_problems(self) -> list[str]:
        return super()._shape_problems() + checks.sizes(self, "pretraining_tp")

    def _value_problems(self) -> list[str]:
        if problems := checks.heads(self):
            return problems
        problems, tp = super()._value_problems(), self.pretraining_tp
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        widths = (heads * self.head_dim, kv_heads * self.head_dim, self.intermediate_size)
        if any(width % tp for width in widths):
            problems.append(f"pretraining_tp: {tp} does not divide all of the widths {widths}")
        return problems
