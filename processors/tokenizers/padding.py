"""Padding of rows of tokens: the method ``pad`` of a tokenizer, for rows from wherever they came.

Shapes: B rows, T tokens of a row, L the length they are padded to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from processors.tokenizers.batch_encoding import BatchEncoding
from processors.tokenizers.lengths import (
    NO_LIMIT,
    Lengths,
    PaddingStrategy,
    TruncationStrategy,
    resolve,
)
from processors.tokenizers.special_tokens import SpecialTokens

Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class Padding(SpecialTokens):
    """A tokenizer's sides and limits, and what pads by them.

    ``model_max_length`` is the model's limit in tokens, 1e30 where there is none. ``model_input_names``: the
    columns that a call gives by default, the first being the tokens.
    """

    model_max_length: int = NO_LIMIT
    padding_side: str = "right"
    truncation_side: str = "right"
    model_input_names: Sequence[str] = ("input_ids", "attention_mask")

    def pad(
        self,
        encoded_inputs: Rows,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Rows padded to one length: one row, a mapping of columns, or a list of rows as collators get them.

        ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``special_tokens_mask`` are padded, other
        columns stay as they are. Tensors and arrays give the same again, unless ``return_tensors`` says
        otherwise. Raises ``ValueError`` where there are no tokens, or no padding token to pad with.
        """
        columns = _columns(encoded_inputs)
        main = self.model_input_names[0]
        if main not in columns:
            raise ValueError(
                f"pad: the rows have no {main} (there are {', '.join(columns) or 'no columns'})."
            )
        masked = self._gives("attention_mask", return_attention_mask)
        if columns[main] is None or len(columns[main]) == 0:
            return BatchEncoding(columns | ({"attention_mask": []} if return_attention_mask else {}))
        ready = {"attention_mask": _stacked(columns.pop("attention_mask"))} if _square(columns) else {}
        own_type = _array_type(columns[main])
        columns = {name: _plain(column) for name, column in columns.items()}
        lengths = self._lengths(
            padding, None, max_length, 0, pad_to_multiple_of, padding_side, verbose=verbose
        )
        single = not isinstance(columns[main][0], list | tuple)
        rows = [columns] if single else _rows(columns, len(columns[main]))
        longest = max(len(row[main]) for row in rows)
        padded = [self._padded(row, longest, lengths, masked and not ready) for row in rows]
        if single:
            return BatchEncoding(padded[0], tensor_type=return_tensors or own_type)
        joined = {name: [row[name] for row in padded] for name in padded[0]}
        return BatchEncoding(joined | ready, tensor_type=return_tensors or own_type)

    def _padded(self, row: Mapping[str, Any], longest: int, lengths: Lengths, masked: bool) -> dict[str, Any]:
        """One row with its filling: T tokens to L."""
        main = self.model_input_names[0]
        fillers = {
            main: self.pad_token_id,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        row = dict(row)
        if masked:
            row.setdefault("attention_mask", [1] * len(row[main]))
            fillers["attention_mask"] = 0
        gap = max(lengths.padded(longest) - len(row[main]), 0) if lengths.pads else 0
        for name in fillers.keys() & row.keys():
            filling = [fillers[name]] * gap
            row[name] = [*row[name], *filling] if lengths.padding_side == "right" else [*filling, *row[name]]
        return row

    def _gives(self, column: str, asked: bool | None) -> bool:
        """Whether a column is wanted: as asked, else where the model takes it."""
        return column in self.model_input_names if asked is None else asked

    def _lengths(
        self,
        padding: bool | str | PaddingStrategy,
        truncation: bool | str | TruncationStrategy | None,
        max_length: int | None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        *,
        verbose: bool = True,
    ) -> Lengths:
        """What a call asks for, with this tokenizer's sides and limit; ``ValueError`` without a pad token."""
        asked = Lengths(
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
        )
        found = resolve(
            asked,
            padding=padding,
            truncation=truncation,
            model_max_length=self.model_max_length,
            verbose=verbose,
        )
        if found.pads and self.pad_token_id is None:
            given = "is not set" if self.pad_token is None else f"{self.pad_token!r} is not in the vocabulary"
            raise ValueError(
                f"padding: the tokenizer's pad_token {given}; tokenizer.pad_token = tokenizer.eos_token, or "
                "tokenizer.add_special_tokens({'pad_token': '<pad>'}) would do."
            )
        return found


def _columns(given: Rows) -> dict[str, Any]:
    """Columns of a list of rows, each a list; a mapping is copied."""
    if isinstance(given, Mapping):
        return dict(given.items())
    rows = list(given)
    if not rows:
        raise ValueError("pad: there are no rows.")
    return {name: [row[name] for row in rows] for name in list(rows[0].keys())}


def _rows(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    uneven = [name for name, column in columns.items() if len(column) != count]
    if uneven:
        raise ValueError(f"pad: the columns {', '.join(uneven)} have another number of rows than {count}.")
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _square(columns: Mapping[str, Any]) -> bool:
    """Whether the masks are (L, L) arrays already, which are stacked and not padded."""
    masks = columns.get("attention_mask")
    return isinstance(masks, list) and bool(masks) and getattr(masks[0], "ndim", 0) > 1


def _stacked(masks: Sequence[Any]) -> Any:
    """(L, L) arrays or tensors as one (B, L, L)."""
    import numpy as np

    if isinstance(masks[0], np.ndarray):
        return np.stack(masks)
    import torch

    return torch.stack(list(masks))


def _array_type(column: Any) -> str | None:
    """The kind of arrays that tokens came in: ``pt``, ``np``, or None for plain lists."""
    first = column
    while isinstance(first, list | tuple) and first:
        first = next((item for item in first if not isinstance(item, list | tuple) or item), None)
    if first is None or isinstance(first, int | list | tuple):
        return None
    if hasattr(first, "detach"):
        return "pt"
    if type(first).__module__.partition(".")[0] == "numpy":
        return "np"
    raise ValueError(f"pad: a token of type {type(first).__name__} was given; whole numbers would do.")


def _plain(value: Any) -> Any:
    """Arrays as nested lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
