"""The tokenizers of model families, as data: the pipeline, its settings and the special tokens of each.

A folder names one of them as ``tokenizer_class`` (with or without "Fast" at the end). With ``tokenizer.json``
that only says which Python class it is; with a vocabulary alone, it says what is put around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import tokenizers
from tokenizers import normalizers, processors

from conf.errors import CheckpointError
from processors.tokenizers.kinds import byte_fallback, byte_level, unigram, wordpiece
from processors.tokenizers.kinds.pieces import Pieces
from processors.tokenizers.kinds.surroundings import begin_and_end, surround, surround_doubly
from processors.tokenizers.special_tokens import ROLES

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the tokenizer of a family is made from its vocabulary.

    ``pipeline`` cuts a text, ``surround`` says what is put around it; both are called with the settings,
    which are ``settings`` and ``roles`` where nothing else is given. ``from_pieces`` makes the vocabulary of
    the one in a sentencepiece model. ``kind`` is the library's name of the model inside.
    """

    pipeline: Callable[[Pieces, Settings], tokenizers.Tokenizer]
    surround: Callable[[tokenizers.Tokenizer, Settings], None]
    roles: Mapping[str, str]
    settings: Settings = field(default_factory=dict)
    kind: str
    from_pieces: Callable[[Pieces, Settings], Pieces] = lambda pieces, settings: pieces
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    falls_back_to_bytes: bool = False

    @property
    def usage(self) -> dict[str, Any]:
        """How the family's tokenizers are used, where that is not how most are, as configurations say it."""
        told: dict[str, Any] = {}
        if "token_type_ids" in self.input_names:
            told["model_input_names"] = list(self.input_names)
        if self.padding_side != "right":
            told["padding_side"] = self.padding_side
        return told

    def fits(self, backend: tokenizers.Tokenizer) -> bool:
        """Whether a tokenizer read from ``tokenizer.json`` is of this family's kind."""
        model = backend.model
        same = type(model).__name__ == self.kind
        return same and getattr(model, "byte_fallback", False) == self.falls_back_to_bytes

    def build(self, pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
        """The pipeline with every special token in it; ``settings`` may hold tokens with flags."""
        has = "BPE or WordPiece" if pieces.scores is None else "Unigram"
        if self.kind not in has:
            raise CheckpointError(f"the vocabulary is one for {has}, and one for {self.kind} is needed.")
        plain = {key: _text(value) if key in ROLES else value for key, value in settings.items()}
        full = {**self.settings, **self.roles, **plain}
        try:
            backend = self.pipeline(pieces, full)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"the vocabulary cannot be used: {error}.") from error
        backend.add_tokens(list(pieces.added))
        known = {token.content for token in pieces.added if token.special}  # with flags of their own
        roles = [role for role in ROLES if full.get(role) is not None and full[role] not in known]
        backend.add_special_tokens([_added(settings.get(role, full[role])) for role in roles])
        self.surround(backend, full)
        return backend


def _text(token: Any) -> Any:
    return token["content"] if isinstance(token, Mapping) else None if token is None else str(token)


def _added(token: Any) -> tokenizers.AddedToken:
    """A special token given as its text, as a mapping with its flags (files), or as an ``AddedToken``."""
    if isinstance(token, str):
        return tokenizers.AddedToken(token, special=True, normalized=False)
    given = token.get if isinstance(token, Mapping) else lambda key, _: getattr(token, key)
    flags = {key: bool(given(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return tokenizers.AddedToken(_text(token), special=True, **flags)


def _bert(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    return wordpiece.pipeline(
        pieces.ids or {},
        unk_token=settings["unk_token"],
        do_lower_case=settings["do_lower_case"],
        tokenize_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
    )


def _albert(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    return unigram.pipeline(
        pieces.scores or (),
        unk_token=settings["unk_token"],
        steps=steps,
        charsmap=pieces.charsmap,
        add_prefix_space=settings["add_prefix_space"],
    )


def _xlm_roberta(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    return unigram.pipeline(
        pieces.scores or (),
        unk_token=settings["unk_token"],
        charsmap=pieces.charsmap,
        add_prefix_space=settings["add_prefix_space"],
    )


def _xlm_roberta_pieces(pieces: Pieces, settings: Settings) -> Pieces:
    """fairseq's ids: its own four tokens replace the model's first three, and the mask comes last."""
    first = [(_text(settings[f"{part}_token"]), 0.0) for part in ("bos", "pad", "eos", "unk")]
    rest = list(pieces.scores or ())[3:]
    return Pieces(
        scores=[*first, *rest, (_text(settings["mask_token"]), 0.0)],
        charsmap=pieces.charsmap,
        added=pieces.added,
    )


def _llama(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    prefix = settings["add_prefix_space"]
    return byte_fallback.pipeline(
        pieces.ids or {},
        pieces.merges,
        unk_token=settings["unk_token"],
        add_prefix_space=prefix is None or prefix,
        legacy=bool(settings["legacy"]),
    )


def _byte_level(pieces: Pieces, settings: Settings) -> tokenizers.Tokenizer:
    return byte_level.pipeline(pieces.ids or {}, pieces.merges, add_prefix_space=settings["add_prefix_space"])


def _between_cls_and_sep(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    surround(backend, settings["cls_token"], settings["sep_token"])


def _doubly(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    surround_doubly(backend, settings["bos_token"], settings["eos_token"])


def _as_told(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    start = settings["bos_token"] if settings["add_bos_token"] else None
    end = settings["eos_token"] if settings["add_eos_token"] else None
    begin_and_end(backend, start, end)


def _roberta_surround(backend: tokenizers.Tokenizer, settings: Settings) -> None:
    sep, cls = settings["sep_token"], settings["cls_token"]
    backend.post_processor = processors.RobertaProcessing(
        (sep, backend.token_to_id(sep)),
        (cls, backend.token_to_id(cls)),
        settings["trim_offsets"],
        settings["add_prefix_space"],
    )


BERT = Family(
    kind="WordPiece",
    pipeline=_bert,
    surround=_between_cls_and_sep,
    roles={
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    settings={"do_lower_case": False, "tokenize_chinese_chars": True, "strip_accents": None},
    input_names=("input_ids", "token_type_ids", "attention_mask"),
)
BERT_LEGACY = replace(
    BERT, settings={**BERT.settings, "do_lower_case": True, "do_basic_tokenize": True, "never_split": None}
)
ALBERT = Family(
    kind="Unigram",
    pipeline=_albert,
    surround=_between_cls_and_sep,
    roles={
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    settings={"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
)
XLM_ROBERTA = Family(
    kind="Unigram",
    pipeline=_xlm_roberta,
    surround=_doubly,
    roles={
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
    },
    settings={"add_prefix_space": True},
    from_pieces=_xlm_roberta_pieces,
)
LLAMA = Family(
    kind="BPE",
    pipeline=_llama,
    surround=_as_told,
    roles={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    settings={"add_prefix_space": None, "legacy": False, "add_bos_token": False, "add_eos_token": False},
    padding_side="left",
    falls_back_to_bytes=True,
)
GPT2 = Family(
    kind="BPE",
    pipeline=_byte_level,
    surround=_as_told,
    roles={
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
    settings={"add_prefix_space": False, "add_bos_token": False, "add_eos_token": False},
)
ROBERTA = Family(
    kind="BPE",
    pipeline=_byte_level,
    surround=_roberta_surround,
    roles=XLM_ROBERTA.roles,
    settings={"add_prefix_space": False, "trim_offsets": True},
)
FAMILIES = {
    "BertTokenizer": BERT,
    "BertTokenizerLegacy": BERT_LEGACY,
    "AlbertTokenizer": ALBERT,
    "XLMRobertaTokenizer": XLM_ROBERTA,
    "LlamaTokenizer": LLAMA,
    "GPT2Tokenizer": GPT2,
    "RobertaTokenizer": ROBERTA,
}
# For a folder that says what model it is of, but names no class for its tokenizer.
MODEL_TYPES = {
    "bert": "BertTokenizer",
    "albert": "AlbertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "llama": "LlamaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
}
