"""Keeping an access token out of everything that is printed.

``trainer.config.public`` keeps it out of the files. Torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from trainer.config import SECRET

_SECTION, _NAME = SECRET
HIDDEN = f"<{_NAME.upper()}>"
# All that follows the name at the start of a word, and the value of a mapping's item, in a word or in YAML.
_WORD = re.compile(rf"^(\+*{_SECTION}\.{_NAME}=)(.+)$", re.DOTALL)
_ITEM = re.compile(rf"({_NAME}['\"]?\s*:\s*)([^,}}\n]+)")
_NOTHING = ("", "null", "none", "~")


def redacted(text: str) -> str:
    """A word of a command line, or YAML, as it may be shown: without the value of a token."""
    for pattern in (_WORD, _ITEM):
        text = pattern.sub(lambda found: found[0] if _is_nothing(found[2]) else found[1] + HIDDEN, text)
    return text


def hidden(text: str, words: Iterable[str]) -> str:
    """``text`` without the tokens that are in some words of a command line."""
    values = [found[2] for word in words for pattern in (_WORD, _ITEM) for found in pattern.finditer(word)]
    parts = {part for value in values for part in (value, *re.split(r"[\s,\[\](){}'\"]+", value))}
    for part in sorted(parts, key=len, reverse=True):
        text = text if _is_nothing(part) else text.replace(part, HIDDEN)
    return text


def _is_nothing(value: str) -> bool:
    return value.strip(" '\"").lower() in _NOTHING
