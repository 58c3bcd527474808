"""The collator of a program that names none: padding by its tokenizer, else stacking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from conf.errors import DataError


def default_collator(processing_class: Any) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """Where none is given: padding by a tokenizer, this library's or a foreign one, else stacking."""
    if hasattr(processing_class, "pad") and hasattr(processing_class, "padding_side"):
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

    FILLERS: ClassVar[Mapping[str, int]] = {"labels": -100, "attention_mask": 0}

    def __init__(self, tokenizer: Any):
        self.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        rows = [_renamed(row) for row in rows]
        lengths = [len(row["input_ids"]) for row in rows]
        if "attention_mask" not in rows[0]:
            rows = [{**row, "attention_mask": [1] * n} for row, n in zip(rows, lengths, strict=True)]
        padded = []
        for row, length in zip(rows, lengths, strict=True):
            gap = max(lengths) - length
            padded.append(
                {
                    name: [
                        *value,
                        *[self.FILLERS.get(name, self.pad_token_id if name == "input_ids" else 0)] * gap,
                    ]
                    if hasattr(value, "__len__") and len(value) == length
                    else value
                    for name, value in row.items()
                }
            )
        return stacked(padded)
