"""WordPiece, as BERT has it: words are cut into the longest pieces known, ``##`` marking a later one.

Source: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", and Schuster and Nakajima 2012, "Japanese and Korean Voice Search", for the pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from processors.tokenizers.kinds.alphabet import characters_of

CONTINUES = "##"


def pipeline(
    ids: Mapping[str, int],
    *,
    unk_token: str,
    do_lower_case: bool,
    tokenize_chinese_chars: bool = True,
    strip_accents: bool | None = None,
) -> tokenizers.Tokenizer:
    """Words of ``ids``'s pieces; a word that cannot be put together is ``unk_token`` as a whole.

    ``tokenize_chinese_chars`` makes every CJK character a word; ``strip_accents=None`` strips them where
    ``do_lower_case`` is on.
    """
    backend = tokenizers.Tokenizer(models.WordPiece(dict(ids), unk_token=unk_token))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUES)
    return backend


def train(
    backend: tokenizers.Tokenizer,
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    character_coverage: float,
    special: Sequence[str],
) -> dict[str, int]:
    """The ids of the pieces that ``texts`` (gone through three times) ask for, ``special`` first.

    The library numbers the ``##`` form of each character in an order that changes from run to run, and with
    it the choice between equally frequent pairs. Handing all of them over as known tokens settles it.
    """
    kept = characters_of(texts, backend.normalizer, character_coverage)
    later = _later_in_words(backend, texts)
    known = [*special, *kept, *(CONTINUES + character for character in kept if character in later)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(known)),
        min_frequency=min_frequency,
        special_tokens=known,
        limit_alphabet=len(kept),
        initial_alphabet=kept,
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend.get_vocab(with_added_tokens=False)


def _later_in_words(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> set[str]:
    """The characters that a word goes on with; ideographs and punctuation are words by themselves."""
    found: set[str] = set()
    for text in texts:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text)):
            found.update(word[1:])
    return found
