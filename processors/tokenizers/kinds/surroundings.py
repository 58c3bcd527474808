"""What is put around a text or a pair: ``[CLS] A [SEP] B [SEP]``, ``<s> A </s>`` and the like.

The tokens must be in the vocabulary already, because the pipeline names them by their ids.
"""

from __future__ import annotations

import tokenizers
from tokenizers import processors


def surround(backend: tokenizers.Tokenizer, start: str, end: str) -> None:
    """``start A end`` and ``start A end B end``, the second part with token type 1 (BERT, ALBERT)."""
    _set(
        backend,
        f"{start}:0 $A:0 {end}:0",
        f"{start}:0 $A:0 {end}:0 $B:1 {end}:1",
        (start, end),
    )


def surround_doubly(backend: tokenizers.Tokenizer, start: str, end: str) -> None:
    """``start A end`` and ``start A end end B end``, all with token type 0 (XLM-RoBERTa)."""
    _set(backend, f"{start} $A {end}", f"{start} $A {end} {end} $B {end}", (start, end))


def begin_and_end(backend: tokenizers.Tokenizer, start: str | None, end: str | None) -> None:
    """``start A end`` and ``start A end start B end``, without the token that is None (Llama)."""
    parts = []
    for name, kind in (("$A", 0), ("$B", 1)):
        tokens = (start, name, end)
        parts.append(" ".join(f"{token}:{kind}" for token in tokens if token is not None))
    _set(backend, parts[0], " ".join(parts), tuple(token for token in (start, end) if token is not None))


def _set(backend: tokenizers.Tokenizer, single: str, pair: str, special: tuple[str, ...]) -> None:
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys(special)]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
