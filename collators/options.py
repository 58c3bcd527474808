"""The options of the collators, apart from their code so that a configuration is judged without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from conf.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Flattening:
    """All documents of a micro-batch end to end in one row, without padding.

    ``separator_id`` is the label of each document's first token, which the end of the document before it
    is then trained to predict; -100 trains nothing there.
    """

    separator_id: int = -100


@dataclass(frozen=True, kw_only=True)
class LanguageModeling:
    """One document a row, padded to the longest, or to the next multiple of ``pad_to_multiple_of`` tokens."""

    pad_to_multiple_of: int | None = None
    padding_side: Literal["right", "left"] = "right"

    def __post_init__(self) -> None:
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ConfigError(
                f"pad_to_multiple_of: {self.pad_to_multiple_of} is not a number of tokens above 0."
            )
