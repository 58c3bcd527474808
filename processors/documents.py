"""What a format makes of a data row: documents, or a sentence saying what is wrong with the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Columns of equal length T: ``input_ids`` int32 and ``loss_mask`` uint8, 1 where the token is a target.
# The first token of a document is never predicted, whatever its mask says.
Document = dict[str, np.ndarray]


class RowError(ValueError):
    """A data row cannot be used; ``index`` is its place in the batch. The caller adds the file and line."""

    def __init__(self, message: str, index: int | None = None):
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, kw_only=True)
class FormatReport:
    """What a format has seen so far; reports of several workers add up.

    ``rows`` read; ``documents`` made of them; ``answers`` to learn from, and how many of those
    ``answers_cut`` lost a part or all at ``max_length``; ``rows_without_target`` lost all and gave no
    document; ``template_notes`` are sentences on what the chat template does, each once.
    """

    rows: int = 0
    documents: int = 0
    answers: int = 0
    answers_cut: int = 0
    rows_without_target: int = 0
    template_notes: tuple[str, ...] = ()

    def __add__(self, other: FormatReport) -> FormatReport:
        return FormatReport(
            rows=self.rows + other.rows,
            documents=self.documents + other.documents,
            answers=self.answers + other.answers,
            answers_cut=self.answers_cut + other.answers_cut,
            rows_without_target=self.rows_without_target + other.rows_without_target,
            template_notes=tuple(dict.fromkeys(self.template_notes + other.template_notes)),
        )


def document(input_ids: Sequence[int] | np.ndarray, loss_mask: np.ndarray) -> Document:
    """The two columns, (T,) each, in the types that are stored."""
    return {"input_ids": np.asarray(input_ids, np.int32), "loss_mask": np.asarray(loss_mask, np.uint8)}


def text_column(row: Mapping[str, Any], column: str) -> str:
    """The non-empty text of a column; ``RowError`` where it is something else."""
    text = row.get(column)
    if not isinstance(text, str):
        given = (
            f"holds a value of type {type(text).__name__}"
            if column in row
            else f"is missing (there are {', '.join(row)})"
        )
        raise RowError(f"the column {column!r} {given}; it must be text.")
    check_characters(text, f"the column {column!r}")
    if not text.strip():
        raise RowError(f"the column {column!r} is empty.")
    return text


def check_characters(text: str, where: str) -> None:
    """``RowError`` for half of a surrogate pair, which JSON can spell (``\\ud83d``) but is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{where} holds half of a surrogate pair at character {error.start}.") from None
