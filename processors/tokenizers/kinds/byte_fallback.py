"""BPE over characters, as Llama 1 and 2 have it: a space is "▁", a character without a piece its UTF-8 bytes.

Source: Kudo and Richardson 2018, "SentencePiece"; Touvron et al. 2023, "LLaMA: Open and Efficient Foundation
Language Models", section 2.1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from processors.tokenizers.kinds.alphabet import characters_of

SPACE = "▁"
BYTES: tuple[str, ...] = tuple(f"<0x{byte:02X}>" for byte in range(256))


def pipeline(
    ids: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unk_token: str,
    add_prefix_space: bool = True,
    legacy: bool = False,
) -> tokenizers.Tokenizer:
    """A text without any normalisation; ``add_prefix_space`` writes "▁" before it, and decoding takes it off.

    ``legacy`` writes it after every special token as well.
    """
    backend = tokenizers.Tokenizer(
        models.BPE(dict(ids), list(merges), unk_token=unk_token, fuse_unk=True, byte_fallback=True)
    )
    scheme = ("always" if legacy else "first") if add_prefix_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if add_prefix_space:
        steps.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(steps)
    return backend


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    min_frequency: int,
    character_coverage: float,
    special: Sequence[str],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Pieces and merges that ``texts`` (gone through twice) ask for: ``special``, the 256 bytes, the rest.

    Pieces hold no space but at their start. Characters that ``character_coverage`` leaves out have no piece.
    """
    kept = [*characters_of(texts, None, character_coverage), SPACE]
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(r"[^\S ]"), "isolated"),  # a line break is not in a word
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*special, *BYTES],
        initial_alphabet=sorted(set(kept)),
        limit_alphabet=len(set(kept)),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]
