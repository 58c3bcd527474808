"""Where the answers of a conversation are in its text, found by rendering its beginnings and comparing.

For the answer at message i, the text up to i with the words that ask for an answer is compared with the text
up to and including i: what they share is the prompt, what follows is the answer. It ends with the first
special token after its last word (the end-of-turn token), so the line break that many templates put behind is
no part of it. No cooperation of the template is needed; where it marks answers itself with ``{% generation
%}``, its word is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from processors.documents import RowError
from processors.rendering import ChatTemplate, Message, Rendered, Spans

NOTE_SPLIT = (
    "The chat template writes earlier turns differently once the conversation goes on; "
    "each answer becomes a document of its own, with the conversation before it."
)
NOTE_OPEN = "The chat template ends an answer inside a conversation without a special token."
NOTE_EOS = (
    "The chat template ends the last answer without a special token; the EOS token is put there as a target."
)
NOTE_MARKERS = (
    "The chat template's generation markers leave the end-of-turn token out, so it is not a target."
)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A rendered text and the character spans of the answers to learn in it, in order.

    ``open_end``: the text ends with an answer that no special token ends. ``notes``: what the template does.
    """

    rendered: Rendered
    spans: Spans
    open_end: bool = False
    notes: list[str] = field(default_factory=list)


def find_answers(
    template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Any] | None, turns: Sequence[int]
) -> list[Answers]:
    """The texts to learn the messages ``turns`` from: one when the template allows, else one for each turn.

    ``RowError`` where the answer cannot be told from the rest.
    """
    whole = template.render(messages, tools)
    if whole.generated or template.has_markers:
        return [_by_markers(template, whole, messages, turns)]
    alone = [_one_answer(template, whole, messages, tools, turn) for turn in turns]
    if all(whole.text.startswith(one.rendered.text[: one.spans[0][1]]) for one in alone):
        return [_together(template, whole, alone, ends_with_answer=turns[-1] == len(messages) - 1)]
    for one in alone:
        one.notes.append(NOTE_SPLIT)
        if one.open_end:
            one.notes.append(NOTE_EOS)
    return alone


def target_tokens(one: Answers, spans: np.ndarray) -> list[np.ndarray]:
    """For each answer, the positions of its tokens, given the tokens' character ``spans`` (T, 2).

    A token belongs to an answer when all its characters do; only white space at the answer's borders may go
    with a token that straddles one (" Yes" where the prompt ends in a space). Nothing else of the prompt is
    ever a target.
    """
    text = one.rendered.text
    starts, ends = spans[:, 0], spans[:, 1]
    tokens = []
    for start, end in one.spans:
        first = len(text[:start].rstrip())
        last = len(text) - len(text[end:].lstrip())
        inside = (starts >= first) & (ends > start) & (starts < end) & (ends <= last)
        tokens.append(np.flatnonzero(inside))
    return tokens


def _one_answer(
    template: ChatTemplate,
    whole: Rendered,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    turn: int,
) -> Answers:
    """The answer at ``turn`` within the conversation up to it."""
    prompt = template.render(messages[:turn], tools, add_generation_prompt=True).text
    upto = whole if turn == len(messages) - 1 else template.render(messages[: turn + 1], tools)
    start = _shared(prompt, upto.text)
    if start < len(prompt):
        # Only the words that ask for an answer may differ (some ask for reasoning, which an answer may lack).
        asked = template.render(messages[:turn], tools).text
        told = _shared(asked, upto.text)
        if template.words(asked[told:]):
            raise RowError(
                f"message {turn}: the chat template writes the messages before it differently when this "
                "answer follows, so the answer cannot be told from them; change the template or the row."
            )
        # Their common letters may run into the answer ("<think>" and "<table>"): go back to a whole word.
        start = template.word_start(upto.text, told, start)
    end, closed = _end_of_turn(template, upto, start)
    if end == start:
        raise RowError(f"message {turn}: the chat template does not show this answer.")
    return Answers(rendered=upto, spans=[(start, end)], open_end=not closed)


def _together(
    template: ChatTemplate, whole: Rendered, alone: list[Answers], *, ends_with_answer: bool
) -> Answers:
    """One text for all answers; a turn without an end of its own ends with the special token after it."""
    spans, notes = [], []
    closed = True
    for one in alone:
        start, end = one.spans[0]
        closed = not one.open_end
        if not closed:
            following = template.special_at(whole, end)
            closed, end = following is not None, following or end
        if not closed and one is not alone[-1]:
            notes.append(NOTE_OPEN)
        spans.append((start, end))
    open_end = not closed and ends_with_answer
    if open_end:
        notes.append(NOTE_EOS)
    elif not closed:
        notes.append(NOTE_OPEN)
    return Answers(rendered=whole, spans=spans, open_end=open_end, notes=notes)


def _by_markers(
    template: ChatTemplate, whole: Rendered, messages: Sequence[Message], turns: Sequence[int]
) -> Answers:
    spans = [(start, end) for start, end in whole.generated if end > start]
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if len(turns) < len(answers):
        if len(spans) != len(answers):
            raise RowError(
                f"the chat template marks {len(spans)} answers where the conversation has {len(answers)}, "
                "so single answers cannot be left out."
            )
        spans = [span for span, turn in zip(spans, answers, strict=True) if turn in turns]
    if not spans:
        raise RowError("the chat template marks no answer of this conversation.")
    outside = any(
        template.special_before(whole, start, end) is None and template.special_at(whole, end) is not None
        for start, end in spans
    )
    return Answers(rendered=whole, spans=spans, notes=[NOTE_MARKERS] if outside else [])


def _end_of_turn(template: ChatTemplate, upto: Rendered, start: int) -> tuple[int, bool]:
    """Where the last answer of ``upto``, beginning at ``start``, ends, and whether a special token ends it.

    Of the special tokens after the last word, the first ends the turn; without any, the turn is all that was
    written.
    """
    end, position = len(upto.text), len(upto.text)
    closed = False
    while (found := template.special_before(upto, start, position)) is not None:
        position, end = found
        closed = True
    return end, closed


def _shared(one: str, other: str) -> int:
    """The length of the longest common beginning."""
    if other.startswith(one):
        return len(one)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
