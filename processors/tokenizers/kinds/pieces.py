"""What a tokenizer knows before any pipeline is put around it: its pieces, and the files they are read from.

Shapes: ``ids`` maps a piece to its id; ``scores`` lists ``(piece, log probability)`` in the order of the ids.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from conf.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces of a tokenizer, in the form that its kind needs.

    ``ids`` with ``merges`` is for BPE, ``ids`` alone for WordPiece, ``scores`` for Unigram. ``charsmap`` is
    the compiled normalisation of a sentencepiece model. ``added`` are pieces that are found in a text before
    anything else, in the order of their ids.
    """

    ids: Mapping[str, int] | None = None
    merges: Sequence[tuple[str, str]] = ()
    scores: Sequence[tuple[str, float]] | None = None
    charsmap: bytes | None = None
    added: Sequence[tokenizers.AddedToken] = ()


def read_lines(path: Path) -> Pieces:
    """``vocab.txt``: a piece a line, its id the number of the line."""
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return Pieces(ids={piece: index for index, piece in enumerate(lines)})


def read_ids(path: Path, merges: Path | None = None) -> Pieces:
    """``vocab.json`` (piece to id) and, for BPE, ``merges.txt`` (a pair a line, the most frequent first)."""
    ids = read_mapping(path)
    if not all(isinstance(index, int) for index in ids.values()):
        raise CheckpointError(f"{path}: pieces with their ids are expected.")
    return Pieces(ids=ids, merges=() if merges is None else read_merges(merges))


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt``; ``CheckpointError`` for a line that is not two pieces."""
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.startswith("#version"):
            continue
        left, space, right = line.rstrip("\r").partition(" ")
        if not space or not right or " " in right:
            raise CheckpointError(f"{path}, line {number}: two pieces with a space between are expected.")
        pairs.append((left, right))
    return pairs


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping; ``CheckpointError`` where it is something else."""
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} where a mapping is expected.")
    return content


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not text in UTF-8: {error}.") from error


def added_token(token: Mapping[str, Any]) -> tokenizers.AddedToken:
    """An added token as configurations write it: its text, and those of its flags that are on."""
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return tokenizers.AddedToken(token["content"], **{name: token[name] for name in names if name in token})


def of_backend(backend: tokenizers.Tokenizer) -> Pieces:
    """What a ``tokenizer.json`` holds, for a pipeline of other settings to be put around it."""
    content = json.loads(backend.to_str())
    model = content["model"]
    added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
    if model["type"] == "Unigram":
        scores = [(piece, score) for piece, score in model["vocab"]]
        return Pieces(scores=scores, charsmap=_charsmap(content["normalizer"]), added=added)
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model.get("merges", ())]
    return Pieces(ids=model["vocab"], merges=merges, added=added)


def _charsmap(normalizer: Mapping[str, Any] | None) -> bytes | None:
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    found = [step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"]
    return base64.b64decode(found[0]) if found else None
