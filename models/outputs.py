"""What models return: values read by attribute, by key or by position, with absent ones left out.

Field names are the reference's (``main_classes/output``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

from torch import Tensor
from torch.utils._pytree import register_dataclass

from models.layers.cache import DynamicCache, EncoderDecoderCache

T = TypeVar("T")


class ModelOutput:
    """An ordered set of named values; ``None`` fields exist as attributes only.

    ``output.logits``, ``output["logits"]``, ``output[0]``, ``output[:2]``, ``"logits" in output``. Iterating
    gives names, as of a mapping; ``to_tuple`` is what to unpack. Nothing can be put in or taken out.
    """

    def keys(self) -> tuple[str, ...]:
        """The names of the values that are there, in order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The values that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names with values."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def to_tuple(self) -> tuple[Any, ...]:
        """The values as a plain tuple, to be unpacked; so are outputs among them."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())

    def get(self, name: str, default: Any = None) -> Any:
        """The value called ``name``, or ``default`` where it is absent."""
        value = getattr(self, name, None)
        return default if value is None else value

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.values()[key]
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass_transform(kw_only_default=True, frozen_default=True)
def output_type(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of it, whose tensors torch finds (for data-parallel wrappers and compile)."""
    made = dataclass(frozen=True, kw_only=True)(cls)
    register_dataclass(made)
    return made


Cache = DynamicCache | EncoderDecoderCache
Tensors = tuple[Tensor, ...]


# What backbones return.
#
# ``last_hidden_state`` (B, T, D): after the final norm, if there is one. ``hidden_states``: the embeddings,
# then the output of each layer, the last one after the final norm. ``attentions``: each layer's weights
# (B, H, T, S). ``cross_attentions``: the same on an encoder's tokens.


@output_type
class BaseModelOutput(ModelOutput):
    """A backbone's hidden states."""

    last_hidden_state: Tensor
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class BaseModelOutputWithPast(ModelOutput):
    """A decoder's, with its cache."""

    last_hidden_state: Tensor
    past_key_values: DynamicCache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class MoeModelOutputWithPast(ModelOutput):
    """A decoder's with experts; ``router_logits``: each sparse layer's scores (B * T, experts)."""

    last_hidden_state: Tensor
    past_key_values: DynamicCache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    router_logits: Tensors | None = None


@output_type
class BaseModelOutputWithPooling(ModelOutput):
    """An encoder's, with one vector (B, D) for each sequence."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class BaseModelOutputWithCrossAttentions(ModelOutput):
    """A backbone's that may look at an encoder's tokens."""

    last_hidden_state: Tensor
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@output_type
class BaseModelOutputWithPastAndCrossAttentions(ModelOutput):
    """A decoder's that may look at an encoder's tokens, with its cache."""

    last_hidden_state: Tensor
    past_key_values: Cache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@output_type
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Of a backbone that is encoder or decoder, with one vector (B, D) for each sequence if it pools."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: Tensors | None = None
    past_key_values: Cache | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


# What heads return: scores, and the loss when labels were given.


@output_type
class CausalLMOutput(ModelOutput):
    """Next-token scores (B, T, V)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class CausalLMOutputWithPast(ModelOutput):
    """Next-token scores (B, T, V), with the cache."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class MoeCausalLMOutputWithPast(ModelOutput):
    """Next-token scores (B, T, V) of a decoder with experts; ``router_logits`` as the backbone's.

    ``aux_loss`` is a loss that balances experts, where a family has one.
    """

    loss: Tensor | None = None
    aux_loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    router_logits: Tensors | None = None


@output_type
class CausalLMOutputWithCrossAttentions(ModelOutput):
    """Next-token scores (B, T, V) of a decoder that may look at an encoder's tokens."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None
    cross_attentions: Tensors | None = None


@output_type
class MaskedLMOutput(ModelOutput):
    """Scores (B, T, V) of what stands at each token."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class NextSentencePredictorOutput(ModelOutput):
    """Scores (B, 2): that the second sentence follows the first, and that it does not."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class BertForPreTrainingOutput(ModelOutput):
    """Scores of each token (B, T, V) and of whether the second sentence follows (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class AlbertForPreTrainingOutput(ModelOutput):
    """Scores of each token (B, T, V) and of the order of two segments (B, 2)."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class SequenceClassifierOutput(ModelOutput):
    """Scores of each sequence (B, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class SequenceClassifierOutputWithPast(ModelOutput):
    """Scores of each sequence (B, num_labels), with the cache."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class MultipleChoiceModelOutput(ModelOutput):
    """Scores (B, choices)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class TokenClassifierOutput(ModelOutput):
    """Scores of each token (B, T, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@output_type
class QuestionAnsweringModelOutput(ModelOutput):
    """Scores (B, T) of where the answer starts and ends."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


FROM_BACKBONE = (
    "past_key_values",
    "hidden_states",
    "attentions",
    "cross_attentions",
    "router_logits",
)


def passed_on(backbone: ModelOutput, made: type[ModelOutput]) -> dict[str, Any]:
    """What a head's output of type ``made`` takes over from the backbone's."""
    names = made.__dataclass_fields__  # type: ignore[attr-defined]  # fields() breaks a compiled graph
    return {name: backbone.get(name) for name in FROM_BACKBONE if name in names}
