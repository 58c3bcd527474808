"""Which names a pattern means: regular expressions that match names as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from conf.errors import ConfigError


def matching(pattern: str, names: Iterable[str], path: str, kind: str = "parameter") -> list[str]:
    """The names that the pattern matches as a whole; ``ConfigError`` naming ``path`` and near names if none.

    ``kind`` says what the names are of.
    """
    names = [*names]
    compiled = compiled_pattern(pattern, path)
    found = [name for name in names if compiled.fullmatch(name)]
    if not found:
        raise ConfigError(f"{path}: {pattern!r} matches no whole name of a {kind}; {near(pattern, names)}")
    return found


def compiled_pattern(pattern: str, path: str) -> re.Pattern[str]:
    """The regular expression; ``ConfigError`` naming ``path`` for what is none."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{path}: {pattern!r} is no regular expression; {error}.") from error


def near(pattern: str, names: Sequence[str]) -> str:
    """The end of an error sentence: up to three names that may have been meant."""
    found = [name for name in names if re.search(pattern, name)]
    if not found:
        literal = re.sub(r"[\\^$*+?()\[\]{}|]", "", pattern)
        found = _with_similar_part(literal, names) or get_close_matches(literal, names, n=3, cutoff=0.7)
    if not found:
        return f"there are {len(names)}, as {names[0]!r}." if names else "there are none here."
    return f"near are {', '.join(map(repr, found[:3]))}."


def _with_similar_part(literal: str, names: Sequence[str]) -> list[str]:
    """The names that have a part like a word that no name has: ``q_proj`` for ``q_prj``."""
    parts = {part for name in names for part in name.split(".")}
    words = {*re.findall(r"[A-Za-z]\w+", literal)} - parts
    similar = {part for word in words for part in get_close_matches(word, parts, n=1, cutoff=0.7)}
    return [name for name in names if similar & {*name.split(".")}]
