"""What the configurations of BERT and of its descendants with the same layers have in common.

Defaults are those of BERT base, as on the reference page ``model_doc/bert``.
"""

from __future__ import annotations

from dataclasses import dataclass

from models import config_checks as checks
from models.config import Activation, ModelConfig


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """The shape and numerics of an encoder with absolute positions, which may run as a decoder.

    ``is_decoder`` lets a token see none after itself and keeps keys and values; ``add_cross_attention`` lets
    it look at another encoder's tokens too. ``classifier_dropout`` is ``hidden_dropout_prob`` when not given.
    ``chunk_size_feed_forward`` computes the feed-forward blocks for that many tokens at a time, 0 for all at
    once. Raises ``ConfigError`` listing every field that cannot be.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Activation = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    use_cache: bool = True
    classifier_dropout: float | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    chunk_size_feed_forward: int = 0
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse(self._shape_problems() or self._value_problems())

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifying head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def head_activation(self) -> str:
        """The activation in the head of masked words."""
        return self.hidden_act

    def _shape_problems(self) -> list[str]:
        return checks.sizes(
            self,
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        )

    def _value_problems(self) -> list[str]:
        problems = checks.heads(self) + checks.activation(self) + checks.padding(self)
        problems += checks.probabilities(
            self, "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"
        )
        if self.add_cross_attention and not self.is_decoder:
            problems.append("add_cross_attention: only a decoder looks at an encoder, set is_decoder to true")
        return problems + checks.encoding(self)
