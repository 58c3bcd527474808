"""Single characters, for speech models that spell what they hear: a space is a token like a letter.

Source: Graves et al. 2006, "Connectionist Temporal Classification"; the vocabulary is laid out as Baevski et
al. 2020, "wav2vec 2.0", fine-tune with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from processors.tokenizers.kinds.alphabet import counted


def pipeline(
    ids: Mapping[str, int], *, unk_token: str, word_delimiter_token: str, do_lower_case: bool
) -> tokenizers.Tokenizer:
    """A token for each character; ``word_delimiter_token`` stands for a space, and decoding gives it back."""
    backend = tokenizers.Tokenizer(models.WordLevel(dict(ids), unk_token=unk_token))
    steps = [normalizers.Replace(" ", word_delimiter_token)]
    backend.normalizer = normalizers.Sequence([*([normalizers.Lowercase()] if do_lower_case else []), *steps])
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace(word_delimiter_token, " ")])
    return backend


def train(
    backend: tokenizers.Tokenizer,
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    special: Sequence[str],
) -> dict[str, int]:
    """``special`` first, then the characters of ``texts`` in the order of Unicode.

    The most frequent ones if there are more than ``vocab_size`` leaves room for.
    """
    ranked = [
        (character, count)
        for character, count in counted(texts, backend.normalizer)
        if count >= min_frequency and character not in special
    ]
    kept = sorted(character for character, _ in ranked[: vocab_size - len(special)])
    return {token: index for index, token in enumerate([*special, *kept])}
