"""The options of the text processors, apart from their code so that a configuration is judged without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

TokenizerKind = Literal["bpe", "bpe_byte_fallback", "wordpiece", "unigram", "characters"]

# The kinds of tokenizer that can be trained; for each, the options that have an effect, and what they are
# unless given. Every kind has ``vocab_size``.
KINDS: dict[str, dict[str, Any]] = {
    "bpe": {"min_frequency": 2},
    "bpe_byte_fallback": {"min_frequency": 2, "character_coverage": 0.9995},
    "wordpiece": {
        "min_frequency": 2,
        "character_coverage": 0.9995,
        "do_lower_case": False,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
    },
    "unigram": {"character_coverage": 0.9995, "do_lower_case": True, "keep_accents": False},
    "characters": {"min_frequency": 1, "do_lower_case": False},
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train a tokenizer on the run's own texts.

    ``train`` is the kind: ``bpe`` (byte-level, as GPT-2 and Llama 3), ``bpe_byte_fallback`` (as Llama 1 and
    2), ``wordpiece`` (as BERT), ``unigram`` (as ALBERT) or ``characters`` (for speech). ``vocab_size`` counts
    everything: special tokens, characters or bytes, and pieces. A small corpus may end below it.

    The others are None for what the kind has as its own (``KINDS``), and an error for a kind that has no
    such option. ``min_frequency`` is how often a pair must occur to be merged, or a character to be a token.
    ``character_coverage`` is the share of all characters that get a token of their own; the rarest have none.
    ``do_lower_case``, ``strip_accents`` (of BERT: None is where it lower-cases), ``keep_accents`` (of ALBERT)
    and ``tokenize_chinese_chars`` (each a word) say how a text is normalised, also after the training.
    """

    train: TokenizerKind = "bpe"
    vocab_size: int = 4096
    min_frequency: int | None = None
    character_coverage: float | None = None
    do_lower_case: bool | None = None
    strip_accents: bool | None = None
    keep_accents: bool | None = None
    tokenize_chinese_chars: bool | None = None

    def problems(self) -> Iterator[str]:
        """What cannot be, as sentences that begin with the option's name."""
        for field in fields(TrainOptions)[2:]:
            value = getattr(self, field.name)
            if value is not None and field.name not in KINDS[self.train]:
                having = ", ".join(kind for kind, options in KINDS.items() if field.name in options)
                yield f"{field.name}: {value} has no effect on a {self.train} tokenizer, only on {having}."
        if self.vocab_size < 1:
            yield f"vocab_size: {self.vocab_size} is less than 1."
        if self.min_frequency is not None and self.min_frequency < 1:
            yield f"min_frequency: {self.min_frequency} is less than 1."
        if self.character_coverage is not None and not 0 < self.character_coverage <= 1:
            yield f"character_coverage: {self.character_coverage} is not above 0 and up to 1."

    def settings(self) -> dict[str, Any]:
        """The options of the kind, with its own values where none is given."""
        own = KINDS[self.train]
        return {name: own[name] if (value := getattr(self, name)) is None else value for name in own}


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """Rows that hold a conversation; the answers of the assistant are the targets.

    ``style``: ``messages`` is a list of ``{"role", "content"}`` (tools and tool calls included), ``sharegpt``
    a list of ``{"from", "value"}``. ``column`` defaults to ``messages`` or ``conversations``.
    ``tools_column`` may hold the tools of a row as a list or as JSON. ``train_on``: every answer, or the last
    one of each conversation; a message's own ``weight`` (0 or 1) or ``train`` (true or false) switches off
    single answers.
    """

    style: Literal["messages", "sharegpt"] = "messages"
    column: str | None = None
    tools_column: str = "tools"
    train_on: Literal["all", "last"] = "all"


@dataclass(frozen=True, kw_only=True)
class InstructionFormat:
    """Rows with an instruction, an optional input for it, and the output, which is the target.

    ``system_column`` is optional in the rows, like ``input_column``.
    """

    instruction_column: str = "instruction"
    input_column: str = "input"
    output_column: str = "output"
    system_column: str = "system"


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """Rows of plain text, for pretraining: every token is a target."""

    column: str = "text"
