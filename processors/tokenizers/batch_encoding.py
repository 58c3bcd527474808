"""What a call of a tokenizer gives: the model's inputs, and the way from tokens to words and characters.

Shapes: B rows (texts, or windows of texts that were too long), T tokens of a row. Characters are positions in
the text as given; words are those of the pre-tokenizer, or the given ones of a text split into words.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from conf import logging

logger = logging.get_logger(__name__)


class CharSpan(NamedTuple):
    """Characters ``start`` up to ``end``, which is the one behind the last."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` up to ``end``, which is the one behind the last."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """A mapping of columns (``input_ids``, ``attention_mask``, ...), which are attributes as well.

    ``batch["input_ids"]`` is a column, ``batch[0]`` the ``tokenizers.Encoding`` of the first row,
    ``batch[1:3]`` encodings, or without encodings the columns cut to these rows. The methods that
    go from tokens to words or characters take ``(row, index)``, or ``(index)`` for the first row; negative
    ones count from the end. They raise ``ValueError`` where the encodings are not known, which is so for
    rows that did not come from text.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: tokenizers.Encoding | Sequence[tokenizers.Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ):
        super().__init__(data)
        encodings = [encoding] if isinstance(encoding, tokenizers.Encoding) else encoding
        self._encodings = None if encodings is None else list(encodings)
        if n_sequences is None and self._encodings:
            n_sequences = self._encodings[0].n_sequences
        self._n_sequences = n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: str | int | slice) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if self._encodings is not None:
            return self._encodings[item]
        if isinstance(item, slice):
            return {name: column[item] for name, column in self.data.items()}
        raise KeyError(f"{item!r}: a row is known by its number only where the batch was made from text.")

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(f"BatchEncoding has no attribute or column {name!r}.") from None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None where it is not known."""
        return self._n_sequences

    @property
    def is_fast(self) -> bool:
        """Whether the encodings are known."""
        return self._encodings is not None

    @property
    def encodings(self) -> list[tokenizers.Encoding] | None:
        """The encoding of each row, or None."""
        return self._encodings

    # A row's tokens

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The T tokens of a row."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The word that each of the T tokens belongs to, None for added special tokens."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each of the T tokens 0 or 1, the text of a pair that it is from; None for added ones."""
        return self._row(batch_index).sequence_ids

    # From tokens

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text of a pair, 0 or 1, that a token is from."""
        return self._of_token("token_to_sequence", batch_or_token_index, token_index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to."""
        return self._of_token("token_to_word", batch_or_token_index, token_index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of a token; None for an added special token."""
        found = self._of_token("token_to_chars", batch_or_token_index, token_index)
        return None if found is None else CharSpan(*found)

    # From words and characters

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word of the text ``sequence_index``; None where it has none."""
        row, index = self._place(batch_or_word_index, word_index)
        found = row.word_to_tokens(_word(row, index, sequence_index), sequence_index)
        return None if found is None else TokenSpan(*found)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan:
        """The characters of a word of the text ``sequence_index``; ``IndexError`` where there is none."""
        row, index = self._place(batch_or_word_index, word_index)
        found = row.word_to_chars(_word(row, index, sequence_index), sequence_index)
        if found is None:
            raise IndexError(f"The text {sequence_index} of this row has no word {index}.")
        return CharSpan(*found)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The first token of a character; None where no token has it, as with trimmed white space."""
        row, index = self._place(batch_or_char_index, char_index)
        return row.char_to_token(index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word of a character; None where no token has it."""
        row, index = self._place(batch_or_char_index, char_index)
        return row.char_to_word(index, sequence_index)

    # Tensors

    def convert_to_tensors(
        self, tensor_type: str | None = None, prepend_batch_axis: bool = False
    ) -> BatchEncoding:
        """Make arrays of the columns, in place: ``pt`` for PyTorch, ``np`` for NumPy, None for no change.

        ``prepend_batch_axis`` takes each column as one row. Raises ``ValueError`` where rows have different
        lengths (NumPy gets an array of objects then, as in the reference).
        """
        if tensor_type is None:
            return self
        if tensor_type not in _ARRAYS:
            raise ValueError(f"return_tensors: {tensor_type!r} was given; one of pt, np would do.")
        array = _ARRAYS[tensor_type]
        for name, column in self.data.items():
            try:
                self.data[name] = array([column] if prepend_batch_axis else column)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"return_tensors: the rows of {name!r} have different lengths or hold no numbers; "
                    "padding=True and truncation=True make them equal."
                ) from error
        return self

    def to(self, device: Any, *, non_blocking: bool = False) -> BatchEncoding:
        """Send the tensors to ``device``, in place; columns that are no tensors stay."""
        if not (isinstance(device, str | int) or type(device).__name__ == "device"):
            logger.warning("BatchEncoding.to: %r is no device; a batch can be sent, not cast.", device)
            return self
        for name, column in self.data.items():
            if callable(getattr(column, "to", None)):
                self.data[name] = column.to(device=device, non_blocking=non_blocking)
        return self

    def _row(self, index: int) -> tokenizers.Encoding:
        if not self._encodings:
            raise ValueError("This batch did not come from text, so its words and characters are not known.")
        return self._encodings[index]

    def _place(self, row_or_index: int, index: int | None) -> tuple[tokenizers.Encoding, int]:
        if index is None:
            return self._row(0), row_or_index
        return self._row(row_or_index), index

    def _of_token(self, method: str, row_or_index: int, index: int | None) -> Any:
        row, index = self._place(row_or_index, index)
        return getattr(row, method)(index + len(row) if index < 0 else index)


def _word(row: tokenizers.Encoding, index: int, sequence: int) -> int:
    """A word's number, counted from the end of its text where it is negative."""
    if index >= 0:
        return index
    words = (word for word, text in zip(row.word_ids, row.sequence_ids, strict=True) if text == sequence)
    return index + 1 + max((word for word in words if word is not None), default=-1)


def _torch_tensor(column: Any) -> Any:
    import numpy as np
    import torch

    if isinstance(column, torch.Tensor):
        return column
    if isinstance(column, list) and column and isinstance(column[0], np.ndarray):
        return torch.from_numpy(np.array(column))
    if isinstance(column, list | tuple) and column and isinstance(column[0], torch.Tensor):
        return torch.stack(list(column))
    found = torch.tensor(column)
    return found if found.numel() else found.long()  # as many as there are, but of no type yet


def _numpy_array(column: Any) -> Any:
    import numpy as np

    if isinstance(column, np.ndarray):
        return column
    nested = isinstance(column, list | tuple) and column and isinstance(column[0], list | tuple | np.ndarray)
    if nested and len({len(row) for row in column}) > 1:
        ragged = np.empty(len(column), dtype=object)
        ragged[:] = [np.asarray(row) for row in column]
        return ragged
    found = np.asarray(column)
    return found if found.size else found.astype(np.int64)


_ARRAYS: dict[str, Callable[[Any], Any]] = {"pt": _torch_tensor, "np": _numpy_array}
