"""The configuration of the ALBERT family.

Defaults are those of ALBERT xxlarge (version 2), as on the reference page ``model_doc/albert``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from models import config_checks as checks
from models.config import Activation, ModelConfig

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "embedding_size": 32,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "small": {
        "vocab_size": 4096,
        "embedding_size": 64,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "albert-base-v2": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "albert-xxlarge-v2": {},
}


@dataclass(frozen=True, kw_only=True)
class AlbertConfig(ModelConfig):
    """An ALBERT's shape and numerics.

    Words are embedded in ``embedding_size`` and mapped to ``hidden_size``. The ``num_hidden_layers`` passes
    are shared out, in order, among ``num_hidden_groups`` groups of weights, and each pass through a group is
    one through each of its ``inner_group_num`` layers. ``chunk_size_feed_forward`` computes the feed-forward
    blocks for that many tokens at a time, 0 for all at once.
    Raises ``ConfigError`` listing every field that cannot be.
    """

    model_type: ClassVar[str] = "albert"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    inner_group_num: int = 1
    hidden_act: Activation = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float = 0.1
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | tuple[int, ...] | None = 3
    chunk_size_feed_forward: int = 0
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse(self._shape_problems() or self._value_problems())

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifying head."""
        return self.classifier_dropout_prob

    @property
    def head_activation(self) -> str:
        """The activation in the head of masked words."""
        return self.hidden_act

    def _shape_problems(self) -> list[str]:
        return checks.sizes(
            self,
            "vocab_size",
            "embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "num_hidden_groups",
            "num_attention_heads",
            "intermediate_size",
            "inner_group_num",
            "max_position_embeddings",
            "type_vocab_size",
        )

    def _value_problems(self) -> list[str]:
        problems = checks.heads(self) + checks.activation(self) + checks.padding(self)
        problems += checks.probabilities(
            self, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"
        )
        if self.num_hidden_groups > self.num_hidden_layers:
            problems.append(
                f"num_hidden_groups: {self.num_hidden_groups} groups cannot each have one of "
                f"num_hidden_layers, which is {self.num_hidden_layers}"
            )
        return problems + checks.encoding(self)
