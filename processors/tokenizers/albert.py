"""ALBERT's tokenizer: Unigram. Source: Lan et al. 2020; the reference's page on ALBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from processors.tokenizers.families import ALBERT
from processors.tokenizers.family_tokenizer import FamilyTokenizer, Scores, scored, setting
from processors.tokenizers.kinds.pieces import Pieces
from processors.tokenizers.sentencepiece import SentencePieceModel
from processors.tokenizers.special_tokens import Token


class AlbertTokenizer(FamilyTokenizer):
    """``[CLS] A [SEP] B [SEP]``, with token type 1 from B on; ``bos_token`` and ``eos_token`` have no place.

    ``vocab`` lists pieces with their log probabilities or is the path of a ``spiece.model``; without one
    there are the special tokens alone. ``do_lower_case`` and ``keep_accents`` say how a text is normalised,
    ``add_prefix_space`` whether its first word is written with a space before it, like all others.
    ``trim_offsets`` is kept for other programs, which it means nothing to either. ``others`` are arguments of
    every tokenizer.
    """

    tokenizer_class = "AlbertTokenizer"
    family = ALBERT
    own_settings = frozenset(ALBERT.settings)
    model_input_names = ALBERT.input_names

    do_lower_case = setting("do_lower_case", "Whether texts are lower-cased.")
    keep_accents = setting("keep_accents", "Whether accents stay.")
    add_prefix_space = setting("add_prefix_space", "Whether the first word is written like all others.")

    def __init__(
        self,
        vocab: str | Path | Scores | None = None,
        do_lower_case: bool = True,
        keep_accents: bool = False,
        bos_token: Token = "[CLS]",
        eos_token: Token = "[SEP]",
        unk_token: Token = "<unk>",
        sep_token: Token = "[SEP]",
        pad_token: Token = "<pad>",
        cls_token: Token = "[CLS]",
        mask_token: Token = "[MASK]",
        add_prefix_space: bool = True,
        trim_offsets: bool = True,
        **others: Any,
    ):
        if vocab is None:
            found = scored((pad_token, unk_token, cls_token, sep_token, mask_token))
        elif isinstance(vocab, str | Path):
            found = SentencePieceModel.read(Path(vocab)).pieces
        else:
            found = Pieces(scores=vocab)
        given = {
            "do_lower_case": do_lower_case,
            "keep_accents": keep_accents,
            "add_prefix_space": add_prefix_space,
            "trim_offsets": trim_offsets,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        super().__init__(found, given, others)


AlbertTokenizerFast = AlbertTokenizer
