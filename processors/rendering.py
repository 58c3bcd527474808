"""Conversations to text and prompts through a model's own chat template, in a sandbox.

A template is code that comes with a downloaded model: it runs where neither Python's internals nor files can
be reached and sees plain values only. What message texts say cannot become structure: a special token spelled
out in a message (``<|im_end|>`` typed by a user) stays text, encoded by its characters. Elsewhere it is
usually parsed into the real token, which lets data end turns and forge roles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from conf.errors import ConfigError
from processors.documents import RowError
from processors.tokenizers import Tokenizer

Message = Mapping[str, Any]
Spans = list[tuple[int, int]]

# Code points that Unicode sets aside for a program's own use; in texts they become U+FFFD.
_LITERAL = "\ufdd0"  # stands after the first character of a special token spelled out by a message
_GENERATION_START, _GENERATION_END = "\ufdd1", "\ufdd2"
_OPEN = "\ufdd3 "  # ends the message that is to be continued; a template may trim the space
_OURS = re.compile(f"{_LITERAL}|{_GENERATION_START}|{_GENERATION_END}|{_OPEN[0]}")

# Names in use for the same thing; the first is the common one.
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text.

    ``literal``: where a message's own text spells a special token (character positions inside of it,
    ascending). ``generated``: character spans between ``{% generation %}`` and ``{% endgeneration %}``.
    """

    text: str
    literal: frozenset[int] = frozenset()
    generated: tuple[tuple[int, int], ...] = ()

    def spelled(self, start: int, end: int) -> bool:
        """Whether a message's own words are what looks like a special token at ``start:end``."""
        return any(start <= position < end for position in self.literal)


class ChatTemplate:
    """The chat template of a tokenizer: messages in, text or ids out.

    Raises ``RowError`` where the template refuses a conversation or fails on it.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | None = None):
        """``source`` overrides the tokenizer's own templates; without either, ``ValueError``."""
        templates = tokenizer.chat_templates if source is None else {"default": source}
        if not templates:
            raise ValueError("the tokenizer has no chat template")
        self.tokenizer = tokenizer
        self._plain = compile_template(templates.get("default", next(iter(templates.values()))))
        self._with_tools = compile_template(templates["tool_use"]) if "tool_use" in templates else self._plain
        self.sources = tuple(templates.values())
        self.has_markers = any(re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", text) for text in self.sources)
        self._specials, self._reserved, self._next_special = _patterns(tokenizer.special_texts)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        protected: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """The conversation as the template writes it, with the words that ask for an answer if wanted.

        ``documents`` and ``variables`` are for templates that know them. ``continue_final_message`` ends the
        text within the last message: in its content, or in the field that is named. ``protected=False``
        takes special tokens spelled out by messages for real: ``literal`` is empty then.
        """
        clean = self._protect if protected else self._without_our_marks
        conversation = [_with_reasoning(clean(message)) for message in messages]
        if continue_final_message:
            field = continue_final_message if isinstance(continue_final_message, str) else "content"
            self._open_end(conversation, field)
        given = {
            **self.tokenizer.special_tokens,
            **{name: clean(value) for name, value in (variables or {}).items()},
            "messages": conversation,
            "tools": clean(tools) if tools is not None else None,
            "documents": clean(documents) if documents is not None else None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(self._with_tools if tools else self._plain, given)
        if continue_final_message:
            text = _until_open_end(text)
        return _without_marks(text) if _OURS.search(text) else Rendered(text=text)

    def _run(self, template: jinja2.Template, given: Mapping[str, Any]) -> str:
        try:
            return template.render(given)
        except RowError:
            raise
        except jinja2.exceptions.SecurityError as error:
            raise RowError(
                f"the chat template tried something that templates may not do: {error}."
            ) from error
        except Exception as error:  # templates fail in any way that code can
            raise RowError(f"the chat template refuses this conversation: {error}") from error

    def _open_end(self, messages: Sequence[dict[str, Any]], field: str) -> None:
        """Mark where the text of the last message ends."""
        final = messages[-1] if messages else {}
        value = final.get(field)
        if value is None:
            raise RowError(f"continue_final_message: the last message has no {field!r} to continue.")
        # Reasoning stands under several names, and a template reads one of them.
        same = [name for name in _REASONING if field in _REASONING and final.get(name) == value] or [field]
        if not any(name in source for name in same for source in self.sources):
            raise RowError(f"continue_final_message: the chat template does not read {field!r}.")
        if isinstance(value, str):
            final.update(dict.fromkeys(same, value + _OPEN))
            return
        texts = [part for part in value if isinstance(part, dict) and "text" in part]
        if not texts:
            raise RowError("continue_final_message: the last message has no text to continue.")
        texts[-1]["text"] += _OPEN

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Any] | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The ids of a prompt: with exactly one BOS where the tokenizer uses one."""
        rendered = self.render(messages, tools, add_generation_prompt=add_generation_prompt)
        return next(self.tokenize([rendered]))[0].tolist()

    def tokenize(self, rendered: Sequence[Rendered]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each text its ids (T,) and their character spans (T, 2).

        BOS: as the template writes it; where it writes none and the tokenizer starts every text with one,
        that one is put before (span 0, 0).
        """
        leading = self.tokenizer.leading_ids
        for ids, spans in self.as_written(rendered):
            if leading and (not len(ids) or ids[0] != self.tokenizer.bos_token_id):
                ids = np.concatenate([np.array(leading, np.int32), ids])
                spans = np.concatenate([np.zeros((len(leading), 2), np.int64), spans])
            yield ids, spans

    def as_written(self, rendered: Sequence[Rendered]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """``tokenize`` without a BOS that the template does not write."""
        encodings = self.tokenizer.encode_with_offsets([one.text for one in rendered])
        for one, encoding in zip(rendered, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            yield self._spell_out(one, ids, spans) if one.literal else (ids, spans)

    def stop_ids(self) -> list[int]:
        """The ids at which generation ends: the EOS token, and what this template ends an answer with."""
        ids = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        try:
            example = self.render(
                [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            ).text
        except RowError:  # a template with needs of its own; EOS must do
            return ids
        last = [token for token in self.tokenizer.special_texts if example.rstrip().endswith(token)]
        if last:
            ids.append(self.tokenizer.token_to_id(max(last, key=len)))
        return list(dict.fromkeys(ids))

    def special_before(self, rendered: Rendered, start: int, position: int) -> tuple[int, int] | None:
        """The span of the special token that ends at ``position``, white space aside."""
        end = start + len(rendered.text[start:position].rstrip())
        if not rendered.text.endswith(self._specials, start, end):
            return None
        begin = end - len(
            next(token for token in self._specials if rendered.text.endswith(token, start, end))
        )
        return None if rendered.spelled(begin, end) else (begin, end)

    def special_at(self, rendered: Rendered, position: int) -> int | None:
        """The end of the special token that stands at ``position`` or behind white space there."""
        match = self._next_special.match(rendered.text, position)
        return None if match is None or rendered.spelled(*match.span(1)) else match.end()

    def word_start(self, text: str, start: int, position: int) -> int:
        """The last place in ``text[start:position]`` after white space or a special token, else ``start``."""
        spaces = (place + 1 for place in range(start, position) if text[place].isspace())
        tokens = (match.end() for match in self._reserved.finditer(text, start, position))
        return max([start, *spaces, *tokens])

    def words(self, text: str) -> str:
        """``text`` without special tokens and the white space around it."""
        return self._reserved.sub("", text).strip()

    def _protect(self, value: Any) -> Any:
        """A fresh copy of plain values in which no string holds a special token in one piece."""
        return _plain(value, self._reserved)

    def _without_our_marks(self, value: Any) -> Any:
        """A fresh copy of plain values in which no string holds one of our marks."""
        return _plain(value, _OURS)

    def _spell_out(self, one: Rendered, ids: np.ndarray, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Replace each special token that came from a message by the tokens of its characters.

        Exact, because a special token always splits the text around it: its neighbours do not change.
        """
        new_ids: list[int] = []
        new_spans: list[list[int]] = []
        special = self.tokenizer.special_ids
        for token, (start, end) in zip(ids.tolist(), spans.tolist(), strict=True):
            forged = token in special and one.spelled(start, end)
            pieces = self._letters(one.text[start:end]) if forged else [token]
            new_ids += pieces
            new_spans += [[start, end]] * len(pieces)
        return np.array(new_ids, np.int32), np.array(new_spans, np.int64).reshape(-1, 2)

    def _letters(self, text: str) -> list[int]:
        # After a line break, because some tokenizers put a space before the start of a text.
        line, whole = self.tokenizer.encode_literally(["\n", "\n" + text], add_special_tokens=False)
        return (
            whole[len(line) :]
            if whole[: len(line)] == line
            else self.tokenizer.encode_literally([text], False)[0]
        )


def stop_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids at which generation ends: the EOS token and what ends an answer in the chat template."""
    if tokenizer.chat_templates:
        return ChatTemplate(tokenizer).stop_ids()
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


@lru_cache(maxsize=64)
def _patterns(specials: frozenset[str]) -> tuple[tuple[str, ...], re.Pattern[str], re.Pattern[str]]:
    """Special tokens, the longest first; what finds them and our marks; what finds one behind white space."""
    ordered = tuple(sorted(specials, key=lambda token: (-len(token), token)))
    spelled = [re.escape(token) for token in ordered]
    reserved = re.compile("|".join([_OURS.pattern, *spelled]))
    return ordered, reserved, re.compile(f"\\s*({'|'.join(spelled) or '(?!)'})")


def _plain(value: Any, reserved: re.Pattern[str]) -> Any:
    """A fresh copy of plain values, what is reserved broken; ``RowError`` for values of other types."""
    if isinstance(value, str):
        return reserved.sub(_break, value) if reserved.search(value) else str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item, reserved) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, reserved) for item in value]
    raise RowError(
        f"a conversation holds a value of type {type(value).__name__}; only plain JSON values are known."
    )


def _break(match: re.Match[str]) -> str:
    found = match.group()
    return "\ufffd" if _OURS.fullmatch(found) else found[0] + _LITERAL + found[1:]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Reasoning under each name that templates read it by."""
    given = next((message[name] for name in _REASONING if message.get(name) is not None), None)
    return message if given is None else {"thinking": given, **message, "reasoning_content": given}


def _until_open_end(marked: str) -> str:
    """A rendered text up to where its last message was to be continued."""
    end = marked.rfind(_OPEN[0])
    if end < 0:
        raise RowError("continue_final_message: the chat template does not write the last message as it is.")
    # A template that trims messages took our space away, and the message's own at that place as well.
    return marked[:end] if marked.startswith(_OPEN, end) else marked[:end].rstrip()


def _without_marks(marked: str) -> Rendered:
    """Take our marks out of a rendered text, noting where they stood."""
    pieces: list[str] = []
    literal: set[int] = set()
    generated: Spans = []
    opened: list[int] = []
    length = end = 0
    for mark in _OURS.finditer(marked):
        pieces.append(marked[end : mark.start()])
        length, end = length + mark.start() - end, mark.end()
        if mark.group() == _LITERAL:
            literal.add(length - 1)
        elif mark.group() == _GENERATION_START:
            opened.append(length)
        elif opened:
            generated.append((opened.pop(), length))
    text = "".join([*pieces, marked[end:]])
    return Rendered(text=text, literal=frozenset(literal), generated=tuple(sorted(generated)))


# The sandbox


class _GenerationTag(Extension):
    """``{% generation %} ... {% endgeneration %}``: what its author says the model itself writes."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (nodes.Output([nodes.Const(mark)]) for mark in (_GENERATION_START, _GENERATION_END))
        return nodes.Scope([start, *body, end]).set_lineno(line)


@lru_cache(maxsize=64)
def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template once; ``ConfigError`` naming the line where it is not valid Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"The chat template is not valid Jinja: line {error.lineno}: {error.message}"
        ) from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
