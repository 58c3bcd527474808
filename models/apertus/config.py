"""The configuration of the Apertus family.

Defaults are those of the reference page ``model_doc/apertus``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from models.config import Activation
from models.decoder_config import DecoderConfig
from models.rope import RopeParameters, modern_rope_parameters

ApertusActivation = Literal["xielu", Activation]

THETA = 12e6
STRETCHED: dict[str, Any] = {  # from 8,192 to 65,536 tokens
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
SHORT = {"rope_type": "default", "rope_theta": 10000.0}

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 264,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": SHORT,
        "tie_word_embeddings": True,
    },
    "small": {
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 1032,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "rope_parameters": SHORT,
        "tie_word_embeddings": True,
    },
    "apertus-8b": {"intermediate_size": 21504, "num_key_value_heads": 8},
    "apertus-70b": {
        "hidden_size": 8192,
        "intermediate_size": 43008,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}


@dataclass(frozen=True, kw_only=True)
class ApertusConfig(DecoderConfig):
    """An Apertus' shape and numerics.

    ``hidden_act`` xielu has parameters of its own in each layer. ``classifier_dropout`` is before the head of
    token classification. Raises ``ConfigError`` listing every field that cannot be.
    """

    model_type: ClassVar[str] = "apertus"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    activations: ClassVar[tuple[str, ...]] = get_args(ApertusActivation)

    vocab_size: int = 131072
    intermediate_size: int = 14336
    hidden_act: ApertusActivation = "xielu"  # type: ignore[assignment]  # one more than others have
    max_position_embeddings: int = 65536
    rms_norm_eps: float = 1e-5
    pad_token_id: int | None = 3
    rope_parameters: RopeParameters = field(
        default_factory=lambda: RopeParameters(**STRETCHED, rope_theta=THETA)
    )
    classifier_dropout: float | None = None

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifying head; published files say ``hidden_dropout``."""
        given = (self.classifier_dropout, self.extra.get("hidden_dropout"), super().head_dropout)
        return next(dropout for dropout in given if dropout is not None)

    @classmethod
    def _modernize(cls, data: dict[str, Any]) -> dict[str, Any]:
        if not (data.get("rope_scaling") or data.get("rope_parameters")):
            data["rope_parameters"] = STRETCHED
        return super()._modernize(modern_rope_parameters(data, THETA))
