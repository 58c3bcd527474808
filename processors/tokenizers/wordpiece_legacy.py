"""WordPiece in Python, step by step as BERT's first programs had it. Source: Devlin et al. 2019.

It differs from the Rust one in few texts: words are composed (NFC) before they are cut, control characters
are those of Python's Unicode tables, and some words can be kept whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

# Blocks of CJK ideographs, first and last code point. Kana and Hangul are written with other scripts' rules.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_LONGEST_WORD = 100  # characters; a longer one is unknown


def words(
    text: str,
    *,
    do_lower_case: bool,
    strip_accents: bool | None,
    tokenize_chinese_chars: bool,
    never_split: Collection[str],
) -> list[str]:
    """``text`` without control characters, cut at white space and around punctuation and ideographs.

    Words of ``never_split`` stay as they are. ``strip_accents=None`` goes with ``do_lower_case``.
    """
    cleaned = "".join(" " if _is_space(c) else c for c in text if not _is_dropped(c))
    if tokenize_chinese_chars:
        cleaned = "".join(f" {c} " if _is_ideograph(c) else c for c in cleaned)
    found: list[str] = []
    for word in unicodedata.normalize("NFC", cleaned).split():
        if word in never_split:
            found.append(word)
            continue
        plain = word.lower() if do_lower_case else word
        if strip_accents or (do_lower_case and strip_accents is not False):
            plain = "".join(c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
        spaced = plain if plain in never_split else _spaced_punctuation(plain)
        found += spaced.split()
    return found


def pieces(word: str, vocabulary: Collection[str], unknown: str) -> list[str]:
    """``word`` cut from the left into the longest pieces of ``vocabulary``; ``unknown`` where that fails."""
    if len(word) > _LONGEST_WORD:
        return [unknown]
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None:
            return [unknown]
        found.append(prefix + word[start:end])
        start = end
    return found


def _is_space(character: str) -> bool:
    return character in " \t\n\r" or unicodedata.category(character) == "Zs"


def _is_dropped(character: str) -> bool:
    """Control and format characters, unassigned ones, and what stands for what could not be read."""
    if character in "\t\n\r":
        return False
    return character == "\ufffd" or unicodedata.category(character).startswith("C")


def _is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)


def _spaced_punctuation(word: str) -> str:
    return "".join(f" {c} " if _is_punctuation(c) else c for c in word)


def _is_punctuation(character: str) -> bool:
    """Punctuation of Unicode, and all of ASCII that is neither letter, digit nor space."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")
