"""The format of plain text, for pretraining."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from conf.errors import ConfigError
from processors.documents import Document, FormatReport, RowError, document, text_column
from processors.options import TextFormat
from processors.tokenizers import Tokenizer


class TextDocuments:
    """Each row's text with the EOS token behind it, of encoders the one that separates texts.

    What the tokenizer puts before a text, a BOS token say, is there too.

    Texts longer than ``max_length`` tokens become consecutive documents; put together they are the text
    again. A text of which the tokenizer's normalisation leaves nothing gives none. Special tokens spelled out
    in a text stay text.
    """

    def __init__(self, options: TextFormat, *, tokenizer: Tokenizer, max_length: int):
        """``ConfigError`` where no target could remain or the tokenizer has no token to end a text with."""
        if max_length < 3:
            raise ConfigError(
                f"data.max_length: {max_length} is too short to split texts by; give 3 or more."
            )
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        if end is None:
            raise ConfigError("format text: the tokenizer has no EOS token to end a text with.")
        self.options = options
        self.tokenizer, self.end = tokenizer, end
        self.max_length = max_length
        self._report = FormatReport()

    def encode(self, row: Mapping[str, Any]) -> list[Document]:
        """The documents of one row; ``RowError`` for a bad row."""
        return self.encode_batch([row])[0]

    def encode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Document]]:
        """``encode`` of many rows, which is faster; the ``index`` of a ``RowError`` is the row's place."""
        texts = []
        for index, row in enumerate(rows):
            try:
                texts.append(text_column(row, self.options.column))
            except RowError as error:
                raise RowError(str(error), index) from error
        found = [list(self._split(ids)) for ids in self.tokenizer.encode_literally(texts)]
        self._report += FormatReport(rows=len(rows), documents=sum(map(len, found)))
        return found

    def report(self) -> FormatReport:
        """What was seen so far."""
        return self._report

    @staticmethod
    def texts(options: TextFormat, row: Mapping[str, Any]) -> Iterator[str]:
        """The texts of a row, for training a tokenizer on them."""
        yield text_column(row, options.column)

    def _split(self, ids: list[int]) -> Iterator[Document]:
        if ids[-1:] != [self.end]:
            ids = [*ids, self.end]
        if len(ids) < 2:
            return  # of a text that the tokenizer's normalisation takes away, nothing is left to predict
        starts = list(range(0, len(ids), self.max_length))
        if len(starts) > 1 and len(ids) - starts[-1] == 1:
            starts[-1] -= 1  # a token alone could never be predicted
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            yield document(ids[start:end], np.ones(end - start, np.uint8))
