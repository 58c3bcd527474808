"""What the configurations of decoders with rotary positions and grouped-query attention have in common.

Defaults are those of Llama 2 7B, as on the reference page ``model_doc/llama2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

from models import config_checks as checks
from models.config import Activation, ModelConfig
from models.rope import SCALED_FROM_ORIGINAL, RopeParameters, modern_rope_parameters


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """The shape and numerics of a decoder.

    ``num_key_value_heads`` and ``head_dim`` follow from the other fields when not given, and so does the
    context that ``rope_parameters`` stretch. Raises ``ConfigError`` listing every field that cannot be.
    """

    activations: ClassVar[tuple[str, ...]] = get_args(Activation)  # what hidden_act can be

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
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters = field(default_factory=RopeParameters)
    attention_bias: bool = False
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_key_value_heads is None:
            self._set("num_key_value_heads", self.num_attention_heads)
        if self.head_dim is None:
            self._set("head_dim", self.hidden_size // max(self.num_attention_heads, 1))
        if isinstance(self.rope_parameters, Mapping):
            self._set("rope_parameters", RopeParameters.from_dict(self.rope_parameters))
        rope = self.rope_parameters
        if rope.rope_type in SCALED_FROM_ORIGINAL and rope.original_max_position_embeddings is None:
            original = self.max_position_embeddings
            self._set("rope_parameters", replace(rope, original_max_position_embeddings=original))
        self._refuse(self._shape_problems() or self._value_problems())

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        return modern_rope_parameters(super()._modernize(data))

    def _shape_problems(self) -> list[str]:
        return checks.sizes(
            self,
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        )

    def _value_problems(self) -> list[str]:
        problems = []
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads:
            problems.append(
                f"num_key_value_heads: {kv_heads} does not divide num_attention_heads, which is {heads}"
            )
        if self.head_dim % 2:
            problems.append(f"head_dim: rotary embeddings need an even number, got {self.head_dim}")
        if self.hidden_act not in self.activations:
            known = ", ".join(self.activations)
            problems.append(f"hidden_act: unknown {self.hidden_act!r}, known are {known}")
        problems += checks.probabilities(self, "attention_dropout") + checks.padding(self)
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
