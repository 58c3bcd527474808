"""XLM-RoBERTa's tokenizer: Unigram with fairseq's ids. Source: Conneau et al. 2020; the reference's class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from processors.tokenizers.families import XLM_ROBERTA
from processors.tokenizers.family_tokenizer import FamilyTokenizer, Scores, scored, setting
from processors.tokenizers.kinds.pieces import Pieces
from processors.tokenizers.sentencepiece import SentencePieceModel
from processors.tokenizers.special_tokens import Token


class XLMRobertaTokenizer(FamilyTokenizer):
    """``<s> A </s>`` and ``<s> A </s></s> B </s>``, all of token type 0.

    ``vocab`` lists pieces with their log probabilities or is the path of a ``sentencepiece.bpe.model``, whose
    ids are moved by one to fairseq's: its four special tokens come first, the mask last. Without one there
    are the special tokens alone. ``add_prefix_space``: the first word is written with a space before it, like
    all others. ``others`` are arguments of every tokenizer.
    """

    tokenizer_class = "XLMRobertaTokenizer"
    family = XLM_ROBERTA
    own_settings = frozenset(XLM_ROBERTA.settings)
    model_input_names = XLM_ROBERTA.input_names

    add_prefix_space = setting("add_prefix_space", "Whether the first word is written like all others.")

    def __init__(
        self,
        vocab: str | Path | Scores | None = None,
        add_prefix_space: bool = True,
        bos_token: Token = "<s>",
        eos_token: Token = "</s>",
        sep_token: Token = "</s>",
        cls_token: Token = "<s>",
        unk_token: Token = "<unk>",
        pad_token: Token = "<pad>",
        mask_token: Token = "<mask>",
        **others: Any,
    ):
        given = {
            "add_prefix_space": add_prefix_space,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "sep_token": sep_token,
            "cls_token": cls_token,
            "unk_token": unk_token,
            "pad_token": pad_token,
            "mask_token": mask_token,
        }
        if vocab is None:
            found = scored((bos_token, pad_token, eos_token, unk_token, mask_token))
        elif isinstance(vocab, str | Path):
            found = XLM_ROBERTA.from_pieces(SentencePieceModel.read(Path(vocab)).pieces, given)
        else:
            found = Pieces(scores=vocab)
        super().__init__(found, given, others)


XLMRobertaTokenizerFast = XLMRobertaTokenizer
