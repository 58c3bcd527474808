"""Unigram: a text is cut into the pieces whose probabilities multiply to the most; a space is written "▁".

Source: Kudo 2018, "Subword Regularization: Improving Neural Network Translation Models with Multiple Subword
Candidates", section 3.2; Kudo and Richardson 2018, "SentencePiece".
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SPACE = "▁"
# A character that no piece covers gets the least probability of all, and each further one this much more.
_STEP = 0.0001


def pipeline(
    scores: Sequence[tuple[str, float]],
    *,
    unk_token: str,
    steps: Sequence[normalizers.Normalizer] = (),
    charsmap: bytes | None = None,
    add_prefix_space: bool = True,
) -> tokenizers.Tokenizer:
    """Words of a text, white space once between them, cut into pieces; ``steps`` normalise it before.

    ``charsmap``, of a sentencepiece model, is the last step. ``add_prefix_space`` writes "▁" before the first
    word too.
    """
    unknown = next((index for index, (piece, _) in enumerate(scores) if piece == unk_token), None)
    backend = tokenizers.Tokenizer(models.Unigram(list(scores), unk_id=unknown, byte_fallback=False))
    every = [*steps, *([] if charsmap is None else [normalizers.Precompiled(charsmap)])]
    if every:
        backend.normalizer = normalizers.Sequence(every)
    scheme = "always" if add_prefix_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return backend


def train(
    backend: tokenizers.Tokenizer,
    texts: Iterable[str],
    *,
    vocab_size: int,
    alphabet: Collection[str],
    special: Sequence[str],
    unk_token: str,
) -> list[tuple[str, float]]:
    """The pieces that ``texts`` ask for, ``special`` first, the probable ones next.

    Characters (as normalised) that are not in ``alphabet`` end a word, so that no piece holds them.
    """
    kept = frozenset(alphabet)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(special), unk_token=unk_token, show_progress=False
    )
    # What is normalised is done before the other characters are taken out.
    normal = texts
    if (normalizer := backend.normalizer) is not None:
        normal = (normalizer.normalize_str(text) for text in texts)
        backend.normalizer = None
    backend.train_from_iterator((_only(kept, text) for text in normal), trainer)
    found = json.loads(backend.to_str())["model"]["vocab"]
    return settled([(piece, score) for piece, score in found], len(special))


def _only(kept: frozenset[str], text: str) -> str:
    return "".join(character if character in kept else " " for character in text)


def settled(scores: Sequence[tuple[str, float]], special: int) -> list[tuple[str, float]]:
    """``scores`` as every run gives them, apart from the first ``special``.

    The library adds in an order of its own that changes from run to run: probabilities differ in their last
    digits, and the characters that no piece covers share out their probabilities differently. Four decimals
    of a logarithm are kept, and those characters are taken in the order of Unicode.
    """
    head, rest = list(scores[:special]), dict(scores[special:])
    least = min(rest.values(), default=0.0)
    by_place: dict[int, list[str]] = {}
    for piece, score in rest.items():
        if len(piece) == 1:
            by_place.setdefault(round((score - least) / _STEP), []).append(piece)
    uncovered: list[str] = []
    for place in itertools.count():
        if place not in by_place:
            break
        uncovered += by_place[place]
    rest |= zip(sorted(uncovered), sorted(rest[piece] for piece in uncovered), strict=True)
    rounded = [(piece, round(score, 4)) for piece, score in rest.items()]
    return head + sorted(rounded, key=lambda entry: (-entry[1], entry[0]))
