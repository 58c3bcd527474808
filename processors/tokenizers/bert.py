"""BERT's tokenizer: WordPiece. Source: Devlin et al. 2019; the reference's page on BERT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from processors.tokenizers.families import BERT
from processors.tokenizers.family_tokenizer import FamilyTokenizer, numbered, setting
from processors.tokenizers.kinds.pieces import Pieces, read_lines
from processors.tokenizers.special_tokens import Token


class BertTokenizer(FamilyTokenizer):
    """``[CLS] A [SEP] B [SEP]``, with token type 1 from B on.

    ``vocab`` maps pieces to ids or is the path of a ``vocab.txt``; without one there are the special tokens
    alone. ``do_lower_case`` is off, as documented; a folder with a ``vocab.txt`` that does not say is
    lower-cased, as it was for all who wrote such folders. ``tokenize_chinese_chars`` makes every CJK
    character a word (better off for Japanese). ``strip_accents=None`` goes with ``do_lower_case``. ``others``
    are arguments of every tokenizer, such as ``model_max_length`` and ``chat_template``.
    """

    tokenizer_class = "BertTokenizer"
    family = BERT
    own_settings = frozenset(BERT.settings)
    model_input_names = BERT.input_names

    do_lower_case = setting("do_lower_case", "Whether texts are lower-cased.")
    tokenize_chinese_chars = setting("tokenize_chinese_chars", "Whether every CJK character is a word.")
    strip_accents = setting("strip_accents", "Whether accents are taken off; None goes with lower-casing.")

    def __init__(
        self,
        vocab: str | Path | Mapping[str, int] | None = None,
        do_lower_case: bool = False,
        unk_token: Token = "[UNK]",
        sep_token: Token = "[SEP]",
        pad_token: Token = "[PAD]",
        cls_token: Token = "[CLS]",
        mask_token: Token = "[MASK]",
        tokenize_chinese_chars: bool = True,
        strip_accents: bool | None = None,
        **others: Any,
    ):
        if vocab is None:
            found = numbered((pad_token, unk_token, cls_token, sep_token, mask_token))
        else:
            found = Pieces(ids=vocab) if isinstance(vocab, Mapping) else read_lines(Path(vocab))
        given = {
            "do_lower_case": do_lower_case,
            "tokenize_chinese_chars": tokenize_chinese_chars,
            "strip_accents": strip_accents,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        super().__init__(found, given, others)


BertTokenizerFast = BertTokenizer
