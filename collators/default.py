"""The collator of a program that names none: padding by its tokenizer, else stacking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from conf.errors import DataError
from processors import Tokenizer


def default_collator(processing_class: Any) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Where none is given: padding by a tokenizer, this library's or a foreign one, else stacking.

    A foreign one pads by its own ``pad``, which leaves labels of token length as they are. Ours are padded
    here, with -100 for labels.
    """
    own = isinstance(processing_class, Tokenizer)
    if not own and hasattr(processing_class, "pad") and hasattr(processing_class, "padding_side"):
        return _PaddedByIt(processing_class)
    if hasattr(processing_class, "pad_token_id"):
        return _Padded(processing_class)
    return stacked


def stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Columns of equal shapes as tensors, ``label`` and ``label_ids`` as ``labels``; no text columns."""
    batch = {}
    for name in rows[0]:
        if isinstance(rows[0][name], str) or rows[0][name] is None:
            continue
        target = "labels" if name in ("label", "label_ids") else name
        try:
            batch[target] = torch.stack([torch.as_tensor(row[name]) for row in rows])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"data_collator: the column {name!r} cannot be stacked ({error}); give a data_collator, or "
                "a processing_class that pads."
            ) from None
    return batch


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {("labels" if name in ("label", "label_ids") else name): value for name, value in row.items()}


class _PaddedByIt:
    """Pads by a foreign tokenizer's or feature extractor's own ``pad``."""

    def __init__(self, processing_class: Any):
        self.processing_class = processing_class

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        return dict(self.processing_class.pad([_renamed(row) for row in rows], return_tensors="pt"))


class _Padded:
    """Pads every column of token length by this library's tokenizer, to the longest row of the batch."""

    FILLERS: ClassVar[Mapping[str, int]] = {"labels": -100, "attention_mask": 0, "special_tokens_mask": 1}

    def __init__(self, tokenizer: Any):
        pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.fillers = {**self.FILLERS, "input_ids": pad_token_id}
        self.left = getattr(tokenizer, "padding_side", "right") == "left"

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = [_renamed(row) for row in rows]
        lengths = [len(row["input_ids"]) for row in rows]
        if "attention_mask" not in rows[0]:
            rows = [{**row, "attention_mask": [1] * n} for row, n in zip(rows, lengths, strict=True)]
        longest = max(lengths)
        return stacked([self._padded(row, n, longest - n) for row, n in zip(rows, lengths, strict=True)])

    def _padded(self, row: Mapping[str, Any], length: int, gap: int) -> dict[str, Any]:
        padded = dict(row)
        for name, value in row.items():
            if not isinstance(value, str) and hasattr(value, "__len__") and len(value) == length:
                filling = [self.fillers.get(name, 0)] * gap
                padded[name] = [*filling, *value] if self.left else [*value, *filling]
        return padded
