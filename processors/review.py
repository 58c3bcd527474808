"""Looking at documents before training: shown with the targets marked, and checked against their row.

The check knows nothing of how masks are made: it decodes the targets and the rest and looks for the messages
in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from processors.chat import ChatDocuments, read_row
from processors.documents import Document
from processors.tokenizers import Tokenizer

_GREEN, _DIM, _RESET = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def show(document: Document, tokenizer: Tokenizer, *, colour: bool = True) -> str:
    """The text of a document: targets green, the rest dim; or, without colour, targets in ``[[ ]]``."""
    parts = []
    for is_target, text, _ in _runs(document, tokenizer):
        if colour:
            # Colour each line by itself: terminals and pagers lose it at the line's end.
            style = _GREEN if is_target else _DIM
            parts.append("\n".join(f"{style}{line}{_RESET}" if line else "" for line in text.split("\n")))
        else:
            parts.append(f"[[{text}]]" if is_target else text)
    return "".join(parts)


def check_conversation(
    row: Mapping[str, Any], documents: Sequence[Document], chat: ChatDocuments, *, ends: bool = True
) -> list[str]:
    """What is wrong with the documents of a conversation, a sentence each.

    Checked: every answer to be learned is a target and ends with an end-of-turn token; nothing that others
    said is a target; a document begins with exactly one BOS token where the tokenizer uses one. What
    ``max_length`` cut off is not missed (``chat.report()`` counts it). ``ends=False``: ends need not be.
    """
    tokenizer = chat.tokenizer
    messages, _, turns = read_row(row, chat.options)
    problems: list[str] = []
    learned: list[str] = []
    answers = [
        _bare(m["content"]) for m in messages if m["role"] == "assistant" and isinstance(m["content"], str)
    ]
    cut = not documents
    for document in documents:
        runs = list(_runs(document, tokenizer))
        targets = [_bare(text) for is_target, text, _ in runs if is_target]
        rest = [_bare(text) for is_target, text, _ in runs if not is_target]
        learned += targets
        full = len(document["input_ids"]) >= chat.max_length
        cut |= full
        problems += _check_bos(document, tokenizer)
        problems += _check_ends(runs, tokenizer, full) if ends else ()
        everything = _bare("".join(text for _, text, _ in runs))
        for index, message in enumerate(messages):
            if message["role"] == "assistant" or not isinstance(message["content"], str):
                continue
            content = _bare(message["content"])
            # An answer may say the same words; a message that was cut off may be found in no other place.
            if content in everything and not any(content in text for text in [*rest, *answers]):
                problems.append(f"message {index} ({message['role']}) is partly a target.")
    for turn in turns:
        content = messages[turn]["content"]
        if not cut and isinstance(content, str) and not any(_bare(content) in text for text in learned):
            problems.append(
                f"message {turn} (assistant) is not wholly a target, or the chat template changes it."
            )
    return list(dict.fromkeys(problems))


def _check_bos(document: Document, tokenizer: Tokenizer) -> Iterator[str]:
    ids, bos = document["input_ids"], tokenizer.bos_token_id
    if bos is None:
        return
    begins = int(ids[0] == bos) + int(len(ids) > 1 and ids[1] == bos)
    if begins == 2:
        yield f"the document begins with two {tokenizer.bos_token}."
    elif begins == 0 and bos in tokenizer.leading_ids:
        yield f"the document does not begin with {tokenizer.bos_token}."


def _check_ends(runs: Sequence[tuple[bool, str, int]], tokenizer: Tokenizer, full: bool) -> Iterator[str]:
    for place, (is_target, text, last) in enumerate(runs):
        if is_target and last not in tokenizer.special_ids and not (full and place == len(runs) - 1):
            yield f"the answer that ends {text[-30:]!r} has no end-of-turn token among its targets."


def _runs(document: Document, tokenizer: Tokenizer) -> Iterator[tuple[bool, str, int]]:
    """Stretches of targets and of other tokens: which of the two, the text, and the last token's id."""
    ids, mask = document["input_ids"], document["loss_mask"]
    borders = np.flatnonzero(np.diff(mask)) + 1
    for start, end in zip([0, *borders], [*borders, len(ids)], strict=True):
        yield bool(mask[start]), tokenizer.decode(ids[start:end].tolist()), int(ids[end - 1])


def _bare(text: str) -> str:
    # White space is the template's to change, and some tokenizers do not decode it exactly.
    return "".join(text.split())
