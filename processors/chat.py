"""The format of conversations: rows of messages to documents whose targets are the answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from conf.errors import ConfigError
from processors.answers import NOTE_MARKERS, NOTE_OPEN, Answers, find_answers, target_tokens
from processors.documents import Document, FormatReport, RowError, check_characters, document
from processors.options import ChatFormat
from processors.rendering import ChatTemplate
from processors.tokenizers import Tokenizer

NOTE_DATE = "The chat template writes today's date, so the tokens depend on the day."

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}


class ChatDocuments:
    """Conversations to documents: the template's text, with the answers as targets.

    A conversation is one document where the template's text of each beginning of it is a beginning of the
    whole, else one document for each answer. An answer ends with its end-of-turn token, which is a target
    too. Longer documents than ``max_length`` tokens are cut at the right; ``report()`` counts the answers
    that this costs.
    """

    def __init__(
        self,
        options: ChatFormat,
        *,
        tokenizer: Tokenizer,
        max_length: int,
        template: ChatTemplate | None = None,
    ):
        """``ConfigError`` where the tokenizer has no chat template and none is given."""
        if template is None and not tokenizer.chat_templates:
            raise ConfigError(
                "format chat: the tokenizer has no chat template; set processor.chat_template, say to chatml."
            )
        self.options = options
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.template = template or ChatTemplate(tokenizer)
        self._report = FormatReport(template_notes=self._first_notes())

    def encode(self, row: Mapping[str, Any]) -> list[Document]:
        """The documents of a row; none where ``max_length`` leaves no target. ``RowError`` for a bad row."""
        return self.encode_batch([row])[0]

    def encode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Document]]:
        """``encode`` of many rows, which is faster; the ``index`` of a ``RowError`` is the row's place."""
        found: list[list[Answers]] = []
        for index, row in enumerate(rows):
            try:
                messages, tools, turns = read_row(row, self.options)
                found.append(find_answers(self.template, messages, tools, turns))
            except RowError as error:
                raise RowError(str(error), index) from error
        tokens = self.template.tokenize([one.rendered for answers in found for one in answers])
        return [self._documents(answers, tokens) for answers in found]

    def report(self) -> FormatReport:
        """What was seen so far."""
        return self._report

    def check(self, row: Mapping[str, Any], documents: Sequence[Document]) -> list[str]:
        """What is wrong with the documents of a row, a sentence each; see ``review.check_conversation``."""
        from processors.review import check_conversation

        # A template that ends no answer, or marks answers without their end, has said so in the report.
        ends = not {NOTE_OPEN, NOTE_MARKERS}.intersection(self._report.template_notes)
        return check_conversation(row, documents, self, ends=ends)

    @staticmethod
    def texts(options: ChatFormat, row: Mapping[str, Any]) -> Iterator[str]:
        """The texts of a row, for training a tokenizer on them."""
        messages, _, _ = read_row(row, options)
        yield from (message["content"] for message in messages if isinstance(message["content"], str))

    def _documents(
        self, answers: Sequence[Answers], tokens: Iterator[tuple[np.ndarray, np.ndarray]]
    ) -> list[Document]:
        documents, count, cut = [], 0, 0
        notes: list[str] = []
        for one in answers:
            made, lost = self._document(one, *next(tokens))
            count, cut = count + len(one.spans), cut + lost
            notes += one.notes
            if made["loss_mask"][1:].any():
                documents.append(made)
        self._report += FormatReport(
            rows=1,
            documents=len(documents),
            answers=count,
            answers_cut=cut,
            rows_without_target=int(not documents),
            template_notes=tuple(notes),
        )
        return documents

    def _document(self, one: Answers, ids: np.ndarray, spans: np.ndarray) -> tuple[Document, int]:
        """One text as a document of at most ``max_length`` tokens; how many answers lost tokens to that."""
        targets = target_tokens(one, spans)
        if one.open_end and (eos := self.tokenizer.eos_token_id) is not None:
            targets[-1] = np.append(targets[-1], len(ids))
            ids = np.append(ids, np.int32(eos))
        mask = np.zeros(len(ids), np.uint8)
        mask[np.concatenate(targets)] = 1
        lost = sum(not len(positions) or int(positions[-1]) >= self.max_length for positions in targets)
        return document(ids[: self.max_length], mask[: self.max_length]), lost

    def _first_notes(self) -> tuple[str, ...]:
        dated = any("strftime_now" in source for source in self.template.sources)
        return (NOTE_DATE,) if dated else ()


def read_row(
    row: Mapping[str, Any], options: ChatFormat
) -> tuple[list[dict[str, Any]], list[Any] | None, list[int]]:
    """The messages of a row, its tools, and which messages to learn; ``RowError`` saying what is wrong."""
    column = options.column or ("messages" if options.style == "messages" else "conversations")
    listed = row.get(column)
    if not isinstance(listed, list | tuple) or not listed:
        given = f"holds {listed!r:.60}" if column in row else f"is missing (there are {', '.join(row)})"
        raise RowError(f"the column {column!r} {given}; it must be a list of messages.")
    messages, weights = [], []
    for index, entry in enumerate(listed):
        if not isinstance(entry, Mapping):
            raise RowError(
                f"message {index} is of type {type(entry).__name__}, not a mapping with role and content."
            )
        message = _from_sharegpt(entry, index) if options.style == "sharegpt" else dict(entry)
        weights.append(_take_weight(message, index))
        messages.append(_checked(message, index))
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise RowError(
            "the conversation has no message of the assistant, so there is nothing to learn from it."
        )
    turns = [turn for turn in (turns[-1:] if options.train_on == "last" else turns) if weights[turn]]
    if not turns:
        raise RowError("every answer of the conversation has weight 0, so there is nothing to learn from it.")
    return messages, _tools(row.get(options.tools_column), options.tools_column), turns


def _checked(message: dict[str, Any], index: int) -> dict[str, Any]:
    if not isinstance(message.get("role"), str):
        raise RowError(f"message {index} has no role (there are {', '.join(message) or 'no keys'}).")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise RowError(
            f"message {index} ({message['role']}): the content is of type {type(content).__name__}, not text."
        )
    if isinstance(content, str):
        check_characters(content, f"message {index} ({message['role']})")
    if content is None and not message.get("tool_calls"):
        raise RowError(f"message {index} ({message['role']}) has no content.")
    # Files with columns fill in None for keys that other rows have; templates ask whether a key is there.
    return {key: value for key, value in message.items() if value is not None} | {"content": content}


def _take_weight(message: dict[str, Any], index: int) -> bool:
    """Whether a message may be learned: both spellings in use, taken out of the message."""
    weight, train = message.pop("weight", None), message.pop("train", None)
    if weight not in (None, 0, 1) or train not in (None, False, True):
        raise RowError(
            f"message {index}: weight must be 0 or 1 and train true or false, not {weight!r} and {train!r}."
        )
    return weight != 0 and train is not False


def _from_sharegpt(entry: Mapping[str, Any], index: int) -> dict[str, Any]:
    role = _SHAREGPT_ROLES.get(entry.get("from", ""))
    if role is None:
        known = ", ".join(_SHAREGPT_ROLES)
        raise RowError(f"message {index}: 'from' is {entry.get('from')!r}; it must be one of {known}.")
    return {"role": role, "content": entry.get("value")} | {
        k: entry[k] for k in ("weight", "train") if k in entry
    }


def _tools(tools: Any, column: str) -> list[Any] | None:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise RowError(f"the column {column!r} is not valid JSON: {error}.") from error
    if tools and not isinstance(tools, list | tuple):
        raise RowError(
            f"the column {column!r} holds a value of type {type(tools).__name__}; it must be a list of tools."
        )
    return list(tools) if tools else None
