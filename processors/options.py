"""The options of the text processors, apart from their code so that a configuration is judged without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train a tokenizer on the run's own texts.

    ``vocab_size`` counts everything: special tokens, the 256 bytes and the merges. A small corpus may end
    below it. ``min_frequency`` is how often a pair must occur to be merged.
    """

    train: Literal["bpe"] = "bpe"
    vocab_size: int = 4096
    min_frequency: int = 2


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
