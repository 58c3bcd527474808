"""The configuration of the Llama family: Llama, Llama 2, Llama 3 and what shares their architecture.

Defaults are those of Llama 2 7B, as on the reference page ``model_doc/llama2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

from models.config import Activation, ModelConfig
from models.rope import SCALED_FROM_ORIGINAL, RopeParameters, modern_rope_parameters

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
class LlamaConfig(ModelConfig):
    """A Llama's shape and numerics.

    ``num_key_value_heads`` and ``head_dim`` follow from the other fields when not given. ``pretraining_tp``
    above 1 computes the linear layers in that many slices, as the original training did.
    Raises ``ConfigError`` listing every field that cannot be.
    """

    model_type: ClassVar[str] = "llama"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    pretraining_tp: int = 1
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters = field(default_factory=RopeParameters)
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_key_value_heads is None:
            self._set("num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            self._set("head_dim", self.hidden_size // max(self.num_attention_heads, 1))
        if isinstance(self.eos_token_id, list):
            self._set("eos_token_id", tuple(self.eos_token_id))
        if isinstance(self.rope_parameters, Mapping):
            self._set("rope_parameters", RopeParameters.from_dict(self.rope_parameters))
        rope = self.rope_parameters
        if rope.rope_type in SCALED_FROM_ORIGINAL and rope.original_max_position_embeddings is None:
            original = self.max_position_embeddings
            self._set("rope_parameters", replace(rope, original_max_position_embeddings=original))
        self._refuse(self._shape_problems() or self._value_problems())

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        data = modern_rope_parameters(super()._modernize(data))
        if data.get("pad_token_id") == -1:  # how the first Llama files said that there is none
            data["pad_token_id"] = None
        return data

    def _shape_problems(self) -> list[str]:
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
            "pretraining_tp",
        )
        return [
            f"{name}: must be at least 1, got {getattr(self, name)}"
            for name in sizes
            if getattr(self, name) < 1
        ]

    def _value_problems(self) -> list[str]:
        problems = []
        heads, kv_heads, tp = self.num_attention_heads, self.num_key_value_heads, self.pretraining_tp
        if heads % kv_heads:
            problems.append(
                f"num_key_value_heads: {kv_heads} does not divide num_attention_heads, which is {heads}"
            )
        if self.hidden_size % heads:
            problems.append(
                f"num_attention_heads: {heads} does not divide hidden_size, which is {self.hidden_size}"
            )
        elif self.head_dim % 2:
            problems.append(f"head_dim: rotary embeddings need an even number, got {self.head_dim}")
        if self.hidden_act not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            problems.append(f"hidden_act: unknown {self.hidden_act!r}, known are {known}")
        if not 0 <= self.attention_dropout < 1:
            problems.append(f"attention_dropout: must be in [0, 1), got {self.attention_dropout}")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            problems.append(
                f"pad_token_id: {self.pad_token_id} is outside the vocabulary of {self.vocab_size}"
            )
        widths = (heads * self.head_dim, kv_heads * self.head_dim, self.intermediate_size)
        if any(width % tp for width in widths):
            problems.append(f"pretraining_tp: {tp} does not divide all of the widths {widths}")
        return problems + self._rope_problems()

    def _rope_problems(self) -> list[str]:
        rope = self.rope_parameters
        problems = [
            f"rope_parameters.{name}: needs head_dim / 2 = {self.head_dim // 2} numbers, got {len(numbers)}"
            for name, numbers in (("short_factor", rope.short_factor), ("long_factor", rope.long_factor))
            if numbers is not None and len(numbers) != self.head_dim // 2
        ]
        if rope.rope_type == "dynamic" and self.head_dim < 4:
            problems.append(
                f"rope_parameters.rope_type: dynamic needs head_dim of at least 4, got {self.head_dim}"
            )
        return problems
