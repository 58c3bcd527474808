"""The format of instructions: one exchange a row, rendered by the chat template or in a plain layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conf.errors import ConfigError
from processors import templates
from processors.chat import ChatDocuments
from processors.documents import Document, FormatReport, RowError, text_column
from processors.options import ChatFormat, InstructionFormat
from processors.rendering import ChatTemplate
from processors.tokenizers import Tokenizer


class InstructionDocuments:
    """Rows of instruction, input and output as a chat of one exchange; the output with its end is the target.

    A tokenizer without a chat template gets the plain layout of ``### Instruction:`` and ``### Response:``.
    """

    def __init__(self, options: InstructionFormat, *, tokenizer: Tokenizer, max_length: int):
        """``ConfigError`` where the plain layout is needed and the tokenizer has no EOS token to end it."""
        self.options = options
        template = None
        if not tokenizer.chat_templates:
            if tokenizer.eos_token_id is None:
                raise ConfigError(
                    "format instruction: the tokenizer has neither a chat template nor an EOS token."
                )
            template = ChatTemplate(tokenizer, templates.source("instruction"))
        self._chat = ChatDocuments(
            ChatFormat(), tokenizer=tokenizer, max_length=max_length, template=template
        )

    def encode(self, row: Mapping[str, Any]) -> list[Document]:
        """The document of a row; none where ``max_length`` leaves no target. ``RowError`` for a bad row."""
        return self.encode_batch([row])[0]

    def encode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Document]]:
        """``encode`` of many rows, which is faster; the ``index`` of a ``RowError`` is the row's place."""
        chats = []
        for index, row in enumerate(rows):
            try:
                chats.append({"messages": read_row(row, self.options)})
            except RowError as error:
                raise RowError(str(error), index) from error
        return self._chat.encode_batch(chats)

    def report(self) -> FormatReport:
        """What was seen so far."""
        return self._chat.report()

    @staticmethod
    def texts(options: InstructionFormat, row: Mapping[str, Any]) -> Iterator[str]:
        """The texts of a row, for training a tokenizer on them."""
        yield from (message["content"] for message in read_row(row, options))


def read_row(row: Mapping[str, Any], options: InstructionFormat) -> list[dict[str, str]]:
    """A row as messages: the input, where there is one, stands below the instruction."""
    instruction = text_column(row, options.instruction_column)
    if row.get(options.input_column):
        instruction = f"{instruction}\n\n{text_column(row, options.input_column)}"
    messages = [
        {"role": "user", "content": instruction},
        {"role": "assistant", "content": text_column(row, options.output_column)},
    ]
    if row.get(options.system_column):
        messages.insert(0, {"role": "system", "content": text_column(row, options.system_column)})
    return messages
