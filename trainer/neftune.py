"""NEFTune: uniform noise on the token embeddings while training (Jain et al., 2023, arXiv:2310.05914).

Shapes: B rows, T tokens of a row, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from conf.errors import ConfigError


class NEFTune:
    """Noise in (-m, m) on the outputs of a model's embeddings, m = alpha / sqrt(T x D), until removed.

    T is a row's length with its padding, as in the authors' and the reference's code. For documents packed
    into one row (``cu_seqlens`` among the model's inputs) it is each document's own length, so that packing
    does not change how strong the noise is. Noise is drawn from torch's generator in fp32, and only while the
    embeddings are in training mode. ``ConfigError`` for a model without ``get_input_embeddings``.
    """

    def __init__(self, model: nn.Module, alpha: float):
        self.alpha = alpha
        self._borders: Tensor | None = None  # of the documents in the forward pass that is running
        self._handles = [
            _embeddings(model).register_forward_hook(self._add_noise),
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def remove(self) -> None:
        """Take the noise away; model and embeddings are then as they were."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _begin(self, model: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        inputs = args[0] if args else named.get("inputs")
        given = {**inputs, **named} if isinstance(inputs, Mapping) else named
        self._borders = given.get("cu_seqlens")

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._borders = None

    def _add_noise(self, embeddings: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not embeddings.training:
            return None
        noise = torch.empty(output.shape, dtype=torch.float32, device=output.device).uniform_(-1, 1)
        return output + (noise * self._bound(output)).to(output.dtype)

    def _bound(self, output: Tensor) -> float | Tensor:
        """m for embeddings (B, T, D): a number, or (T, 1) for packed documents."""
        tokens, channels = output.shape[-2:]
        if self._borders is None:
            return self.alpha / (tokens * channels) ** 0.5
        lengths = self._borders.diff().to(output.device)
        each = lengths.repeat_interleave(lengths, output_size=tokens)  # (T,)
        return (self.alpha / (each * channels).float().sqrt())[:, None]


def _embeddings(model: nn.Module) -> nn.Module:
    get: Any = getattr(model, "get_input_embeddings", None)
    found = None if get is None else get()
    if not isinstance(found, nn.Module):
        raise ConfigError(
            f"training.neftune_noise_alpha: noise goes on the embeddings, and {type(model).__name__} has no "
            "get_input_embeddings() that names them."
        )
    return found
