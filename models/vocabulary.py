"""The word embeddings of a model that is made: read, exchanged, shared with its head, and resized.

Shapes: V vocabulary, E embedding width. Source of names and behaviour: reference page main_classes/model; of
the new rows: Hewitt, 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from conf.errors import ConfigError
from models.config import ModelConfig
from models.heads.head import Head

SPREAD = 1e-9  # of new rows, as a share of the old ones' covariance
BLOCK = 256  # new rows that are drawn at once


class Vocabulary(nn.Module):
    """What a ``TaskModel`` does with its word embeddings and their likes in the head."""

    backbone: nn.Module
    head: Head | None
    config: ModelConfig

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Exchange the token embeddings; a head that shares them shares the new ones."""
        name = _name_of(self.backbone, self.get_input_embeddings())
        owner, _, attribute = name.rpartition(".")
        setattr(self.backbone.get_submodule(owner), attribute, value)
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Module | None:
        """The part of the head that holds the words' ``weight`` (V, E); None where words are not scored."""
        parts = () if self.head is None else self.head.modules()
        return next((part for part in parts if hasattr(part, "tied")), None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Score words by the ``weight`` of this module, and its ``bias`` if it has one and the head has.

        ``ConfigError`` for a head that scores no words.
        """
        words = self.get_output_embeddings()
        if words is None:
            raise ConfigError(
                f"set_output_embeddings: the head {self.head and self.head.name} scores no words"
            )
        words.weight = new_embeddings.weight
        words.tied = new_embeddings.weight is self.get_input_embeddings().weight
        bias = getattr(new_embeddings, "bias", None)
        for owner in self._bias_owners() if bias is not None else ():
            owner.bias = bias

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Let the head share the token embeddings where the configuration says so.

        With ``recompute_mapping=False`` where it does already, whatever the configuration says by now. Of
        ``missing_keys``, names of parameters, those are taken out that sharing fills.
        """
        words = self.get_output_embeddings()
        is_asked_for = getattr(self.config, "tie_word_embeddings", False)
        if words is None or not (is_asked_for if recompute_mapping else words.tied):
            return
        self.head.tie(self.get_input_embeddings())
        names = self.get_expanded_tied_weights_keys()
        if missing_keys is not None and not {*names, *names.values()} <= missing_keys:
            missing_keys -= {*names, *names.values()}

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of parameters that are others': ``{"head.weight": "backbone.embed_tokens.weight"}``.

        There are no models within a model, so ``all_submodels`` changes nothing.
        """
        words, table = self.get_output_embeddings(), self.get_input_embeddings()
        if words is None or words.weight is not table.weight:
            return {}
        return {f"{_name_of(self, words)}.weight": f"{_name_of(self, table)}.weight"}

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
        *,
        pad_token_id: int | None = None,
    ) -> nn.Embedding:
        """Give the vocabulary this many words, rounded up to ``pad_to_multiple_of``; returns the embeddings.

        Words are added and removed at the end, in the head too, and ``config.vocab_size`` follows. New rows
        are drawn from torch's generator around the mean of the old ones, which leaves the probabilities of
        the others nearly as they are; with ``mean_resizing=False`` as in a fresh model. ``pad_token_id``
        names a new word for padding: its row is zero and the configuration's. Parameters stay the same
        objects, tied ones tied; an optimizer with a state of the old shape must be made anew.
        ``ConfigError`` for sizes that cannot be, before anything is changed.
        """
        table = self.get_input_embeddings()
        old = len(table.weight)
        size = _size(old if new_num_tokens is None else new_num_tokens, pad_to_multiple_of)
        padding = {} if pad_token_id is None else {"pad_token_id": pad_token_id}
        if size == old and not padding:
            return table
        config = replace(self.config, vocab_size=size, **padding)
        self.resize_rows(size, mean_resizing)
        if pad_token_id is not None:
            table.padding_idx = pad_token_id
            if pad_token_id >= old:
                with torch.no_grad():
                    table.weight[pad_token_id].zero_()
        self.config = config
        return table

    @torch.no_grad()
    def resize_rows(self, size: int, mean_resizing: bool = True) -> None:
        """Give the embeddings and the head ``size`` words, and leave the configuration as it is."""
        table, words = self.get_input_embeddings(), self.get_output_embeddings()
        std = None if mean_resizing else self.config.initializer_range
        _resize(table.weight, size, std)
        if words is not None:
            if words.weight is not table.weight:
                _resize(words.weight, size, std)
            for owner in self._bias_owners():
                _resize_bias(owner.bias, size, around_mean=mean_resizing and not words.tied)
        table.num_embeddings = size
        if table.padding_idx is not None and table.padding_idx >= size:
            table.padding_idx = None

    def _bias_owners(self) -> list[nn.Module]:
        """The modules with a bias of each word: the one with the words' weight, or the one around it."""
        words = self.get_output_embeddings()
        around = _name_of(self.head, words).rpartition(".")[0]
        owners = dict.fromkeys([words, self.head.get_submodule(around)])
        return [owner for owner in owners if getattr(owner, "bias", None) is not None]


def _name_of(whole: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in whole.named_modules() if module is part)


def _size(size: int, multiple: int | None) -> int:
    for name, value in (
        ("new_num_tokens", size),
        ("pad_to_multiple_of", 1 if multiple is None else multiple),
    ):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: must be a whole number of at least 1, got {value!r}")
    return size if multiple is None else -(-size // multiple) * multiple


def _resize(weight: nn.Parameter, size: int, std: float | None) -> None:
    """New rows normal(0, ``std``), or around the mean of the old ones."""
    added = size - len(weight)
    if added <= 0:
        weight.data = weight.data[:size].clone()
    elif weight.is_meta:
        weight.data = weight.data.new_empty(size, weight.shape[1])
    else:
        rows = weight.data.new_empty(added, weight.shape[1])
        rows = rows.normal_(std=std) if std is not None else _like(weight.data, added)
        weight.data = torch.cat([weight.data, rows])
    weight.grad = None


def _like(rows: Tensor, added: int) -> Tensor:
    """Rows (added, E) with the mean of those of (V, E) and ``SPREAD`` times their covariance.

    Sums of the old rows' deviations with random factors have that covariance, whatever its rank.
    """
    mean = rows.float().mean(dim=0)
    deviations = rows.float() - mean
    scale = (SPREAD / len(rows)) ** 0.5
    parts = [
        mean + scale * torch.randn(min(BLOCK, added - start), len(rows), device=rows.device) @ deviations
        for start in range(0, added, BLOCK)
    ]
    return torch.cat(parts).to(rows.dtype)


def _resize_bias(bias: nn.Parameter, size: int, *, around_mean: bool) -> None:
    """New words' biases are zero, or around the mean of the old ones where their rows are."""
    rows = bias.data.new_zeros(max(0, size - len(bias)))
    if around_mean and not bias.is_meta and len(rows):
        old = bias.data.float()
        rows.normal_(old.mean().item(), SPREAD * old.std().item())
    bias.data = torch.cat([bias.data[:size], rows])
    bias.grad = None
