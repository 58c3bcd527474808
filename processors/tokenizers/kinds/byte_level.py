"""Byte-level BPE: every text is bytes, and the pairs that occurred most often are merged first.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2; Sennrich et
al. 2016, "Neural Machine Translation of Rare Words with Subword Units", for the merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

ALPHABET: tuple[str, ...] = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))


def pipeline(
    ids: Mapping[str, int], merges: Sequence[tuple[str, str]], *, add_prefix_space: bool = False
) -> tokenizers.Tokenizer:
    """Any text can be encoded and comes back exactly; ``add_prefix_space`` puts a space before it."""
    backend = tokenizers.Tokenizer(models.BPE(dict(ids), list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def train(
    backend: tokenizers.Tokenizer,
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    special: Sequence[str],
) -> None:
    """Give ``backend`` its pieces: ``special``, the 256 bytes, then what the merges make."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special),
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
