"""The characters of a corpus, counted the same way every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import normalizers


def counted(texts: Iterable[str], normalizer: normalizers.Normalizer | None) -> list[tuple[str, int]]:
    """The characters of the normalised ``texts`` with their counts, the most frequent first.

    Of equally frequent ones the smaller code point comes first.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text if normalizer is None else normalizer.normalize_str(text))
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def characters_of(
    texts: Iterable[str], normalizer: normalizers.Normalizer | None, coverage: float
) -> list[str]:
    """The most frequent characters, white space apart, in the order of Unicode.

    As many as are needed for the share ``coverage`` of all of them. Source: Kudo and Richardson 2018,
    "SentencePiece", its character coverage.
    """
    ranked = [entry for entry in counted(texts, normalizer) if not entry[0].isspace()]
    wanted = coverage * sum(count for _, count in ranked)
    kept: list[str] = []
    covered = 0
    for character, count in ranked:
        if covered >= wanted:
            break
        covered += count
        kept.append(character)
    return sorted(kept)
