"""Reading sentencepiece models: ``spiece.model``, ``tokenizer.model``, ``sentencepiece.bpe.model``.

The files are protocol buffers, of which a few fields are needed; they are read here, so that no package is
needed whose releases ask for one release of another. Source: Kudo and Richardson 2018, "SentencePiece: A
simple and language independent subword tokenizer"; the message ``ModelProto`` of its package, whose field
numbers and defaults these are; the wire format of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

from conf.errors import CheckpointError
from processors.tokenizers.kinds.pieces import Pieces

SPACE = "▁"
# The types of a piece and of a model.
_CONTROL, _USER_DEFINED = 3, 4
_UNIGRAM, _BPE = 1, 2
# The messages inside the model, and of each its fields: number to name and to what it is unless it is there.
_PIECE, _TRAINING, _NORMALIZING = 1, 2, 3
_FIELDS: dict[int, dict[int, tuple[str, Any]]] = {
    _PIECE: {1: ("text", ""), 2: ("score", 0.0), 3: ("type", 1)},
    _TRAINING: {
        3: ("model_type", _UNIGRAM),
        35: ("byte_fallback", False),
        40: ("unk_id", 0),
        41: ("bos_id", 1),
        42: ("eos_id", 2),
        43: ("pad_id", -1),
        45: ("unk_piece", "<unk>"),
        46: ("bos_piece", "<s>"),
        47: ("eos_piece", "</s>"),
        48: ("pad_piece", "<pad>"),
    },
    _NORMALIZING: {
        2: ("precompiled_charsmap", b""),
        3: ("add_dummy_prefix", True),
        4: ("remove_extra_whitespaces", True),
    },
}


@dataclass(frozen=True)
class SentencePieceModel:
    """A model's pieces in the order of their ids, and its settings, as names and values."""

    path: Path
    entries: tuple[dict[str, Any], ...]
    settings: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SentencePieceModel:
        """``CheckpointError`` for a file that is no such model."""
        entries: list[dict[str, Any]] = []
        settings = _message(_TRAINING, b"") | _message(_NORMALIZING, b"")
        try:
            for number, content in _wire(path.read_bytes()):
                if number == _PIECE:
                    entries.append(_message(number, content))
                elif number in _FIELDS:
                    settings |= _message(number, content)
        except (ValueError, IndexError, struct.error) as error:
            raise CheckpointError(f"{path} is not a sentencepiece model.") from error
        if not entries or settings["model_type"] not in (_UNIGRAM, _BPE):
            raise CheckpointError(f"{path} is not a sentencepiece model of the kind Unigram or BPE.")
        return cls(path, tuple(entries), settings)

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces; control and user-defined ones are found in a text first, the former are special."""
        shared: dict[str, Any] = {
            "charsmap": self.settings["precompiled_charsmap"] or None,
            "added": [
                tokenizers.AddedToken(entry["text"], normalized=False, special=entry["type"] == _CONTROL)
                for entry in self.entries
                if entry["type"] in (_CONTROL, _USER_DEFINED)
            ],
        }
        if self.settings["model_type"] == _UNIGRAM:
            return Pieces(scores=[(entry["text"], entry["score"]) for entry in self.entries], **shared)
        ids = {entry["text"]: index for index, entry in enumerate(self.entries)}
        return Pieces(ids=ids, merges=merges_of(ids), **shared)

    def roles(self) -> dict[str, str]:
        """The special tokens that the model was trained with, by their parts."""
        told = self.settings
        parts = ("bos", "eos", "unk", "pad")
        return {f"{part}_token": told[f"{part}_piece"] for part in parts if told[f"{part}_id"] >= 0}

    def pipeline(self) -> tokenizers.Tokenizer:
        """What the model itself does with a text, for a checkpoint that names no class of its own.

        A text after a special token is one of its own: with ``add_dummy_prefix``, "▁" is written before it.
        """
        told, found = self.settings, self.pieces
        falls_back = bool(told["byte_fallback"])
        model: models.Model
        if found.scores is not None:
            model = models.Unigram(list(found.scores), unk_id=told["unk_id"], byte_fallback=falls_back)
        else:
            model = models.BPE(
                dict(found.ids or {}),
                list(found.merges),
                unk_token=told["unk_piece"],
                fuse_unk=True,
                byte_fallback=falls_back,
            )
        backend = tokenizers.Tokenizer(model)
        backend.normalizer = normalizers.Sequence(self._normalizers())
        steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        if told["add_dummy_prefix"]:
            steps.append(decoders.Strip(content=" ", left=1))
        backend.decoder = decoders.Sequence(steps)
        return backend

    def _normalizers(self) -> list[normalizers.Normalizer]:
        told = self.settings
        steps: list[normalizers.Normalizer] = []
        if told["precompiled_charsmap"]:
            steps.append(normalizers.Precompiled(told["precompiled_charsmap"]))
        if told["remove_extra_whitespaces"]:
            steps += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
        if told["add_dummy_prefix"]:
            steps.append(normalizers.Prepend(SPACE))
        return [*steps, normalizers.Replace(" ", SPACE)]


def merges_of(ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that a sentencepiece BPE model leaves unsaid: all that make a piece, by the piece's id.

    Of those of one piece, the one with the shortest left part comes first.
    """
    found = []
    for piece, index in ids.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((index, cut, left, right))
    return [(left, right) for _, _, left, right in sorted(found)]


def _message(kind: int, content: int | bytes) -> dict[str, Any]:
    """The fields of one message inside the model that have a name here, by it; a number is no message."""
    if isinstance(content, int):
        raise ValueError("A number was found where a message is expected.")
    fields = _FIELDS[kind]
    found = dict(fields.values())
    for number, value in _wire(content):
        if number in fields:
            name, usual = fields[number]
            found[name] = _of_type(type(usual), value)
    return found


def _of_type(kind: type, value: int | bytes) -> Any:
    """A value of a field as what it is; ``ValueError`` where it cannot be."""
    if isinstance(value, int):
        if kind in (str, bytes, float):
            raise ValueError(f"A number was found where {kind.__name__} is expected.")
        return kind(value)
    if kind is float:
        return struct.unpack("<f", value)[0]
    return value.decode() if kind is str else kind(value)


def _wire(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: its number, and its value as a whole number or as bytes.

    ``ValueError`` or ``IndexError`` where the bytes end too early or are no message.
    """
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value - (1 << 64) if value >> 63 else value
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"A field cannot be of the kind {kind}.")
        if place + length > len(data):
            raise ValueError("The message ends within a field.")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
