"""Ways of using one Rust tokenizer that never change it: lengths and literal text without side effects.

The Rust object has one setting for truncation and one for padding, shared by all who use it: set for a call,
they would reach the calls of other threads and whatever uses the object next. A *view* shares vocabulary and
pipeline with it (nothing is copied but the list of added tokens) and has settings of its own, which are made
once and stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tokenizers

from processors.tokenizers.lengths import Lengths


def view(
    backend: tokenizers.Tokenizer, lengths: Lengths | None = None, *, literal: bool = False
) -> tokenizers.Tokenizer:
    """``backend`` truncating as ``lengths`` says, or taking special tokens spelled out in texts as text.

    ``ValueError`` where windows of ``lengths.max_length`` tokens cannot overlap by ``lengths.stride``.
    """
    made = tokenizers.Tokenizer(backend.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(backend, part) is not None:
            setattr(made, part, getattr(backend, part))
    # In the order of their ids, so that each gets the same again.
    made.add_tokens([token for _, token in sorted(backend.get_added_tokens_decoder().items())])
    made.encode_special_tokens = literal
    if lengths is not None and lengths.truncates and lengths.max_length is not None:
        made.enable_truncation(
            lengths.max_length,
            stride=lengths.stride,
            strategy=lengths.truncation.value,
            direction=lengths.truncation_side,
        )
    return made


def encode_batch(
    backend: tokenizers.Tokenizer, inputs: Sequence[Any], *, add_special_tokens: bool, split: bool
) -> list[tokenizers.Encoding]:
    """``backend.encode_batch``, with what it refuses said as a ``ValueError``."""
    try:
        return backend.encode_batch(
            list(inputs), add_special_tokens=add_special_tokens, is_pretokenized=split
        )
    except TypeError as error:
        raise TypeError(_no_text(inputs, split) or str(error)) from error
    except BaseException as error:
        # The library raises bare Exception, and a type of its own outside of it where Rust panics.
        if type(error) is not Exception and type(error).__module__ != "pyo3_runtime":
            raise
        if backend.truncation is None:
            raise ValueError(f"tokenizer call: a text cannot be encoded ({error}).") from error
        raise ValueError(
            f"truncation: a text cannot be cut as asked ({error}); a larger max_length, a smaller stride or "
            "another strategy would do."
        ) from error


def _no_text(inputs: Sequence[Any], split: bool) -> str:
    """A sentence on the first of ``inputs`` that holds something else than text; empty where all do."""
    for row, given in enumerate(inputs):
        texts = given if isinstance(given, tuple) else (given,)
        for text in (
            part for one in texts for part in (one if split and not isinstance(one, str) else [one])
        ):
            if not isinstance(text, str):
                return f"text: row {row} holds {text!r:.60}; a text would do."
            if any("\ud800" <= character <= "\udfff" for character in text):
                return f"text: row {row} holds half of a surrogate pair, which is no character."
    return ""


def pad_batch(
    encodings: Sequence[tokenizers.Encoding], lengths: Lengths, *, token: str, token_id: int, type_id: int
) -> None:
    """Pad encodings in place, windows of long texts included."""
    if not encodings:
        return
    length = lengths.padded(max(len(encoding) for encoding in encodings))
    for encoding in encodings:
        encoding.pad(
            length, direction=lengths.padding_side, pad_id=token_id, pad_type_id=type_id, pad_token=token
        )
