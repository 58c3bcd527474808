"""What models return: values read by attribute, by key or by position, with absent ones left out.

Field names are the reference's (``main_classes/output``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar, dataclass_transform

from torch import Tensor
from torch.utils._pytree import register_dataclass

from models.layers.cache import DynamicCache

T = TypeVar("T")


class ModelOutput:
    """An ordered set of named values; ``None`` fields exist as attributes only.

    ``output.logits``, ``output["logits"]``, ``output[0]``, ``"logits" in output`` and ``output.to_tuple()``.
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
        """The values as a plain tuple, to be unpacked."""
        return self.values()

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


@output_type
class BaseModelOutputWithPast(ModelOutput):
    """A backbone's: hidden states (B, T, D) after the final norm, and the cache.

    ``hidden_states``: the embeddings, then the output of each layer, the last one after the final norm.
    ``attentions``: each layer's weights (B, H, T, S).
    """

    last_hidden_state: Tensor
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@output_type
class CausalLMOutputWithPast(ModelOutput):
    """Next-token scores (B, T, V), and the loss when labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@output_type
class SequenceClassifierOutputWithPast(ModelOutput):
    """Scores of each sequence (B, num_labels), and the loss when labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DynamicCache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
