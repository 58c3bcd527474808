"""Four small tokenizers of different kinds, ours and the reference's on the same vocabulary, and texts."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from processors import Tokenizer

KINDS = ("bpe", "bos_bpe", "wordpiece", "unigram")
TEXTS = [
    "The quick brown fox, isn't it?  It jumps!",
    "Ünïcödé naïve façade — 1,234.5 €",
    "漢字かな交じり文と한국어",
    "مرحبا بالعالم שלום",
    "नमस्ते दुनिया สวัสดี",
    "👩‍👩‍👧 😀 e\u0301 \t tab\nline",
    "x",
    "a longer text that has more words than the others and is cut more often than any of them",
]


def random_texts(seed: int, count: int, longest: int = 24) -> list[str]:
    """Texts of any code points but surrogates, white space and ASCII being frequent."""
    rng = random.Random(seed)

    def letter() -> str:
        kind = rng.random()
        if kind < 0.5:
            return chr(rng.randint(32, 126))
        if kind < 0.65:
            return rng.choice(" \n\t\u00a0")
        code = rng.randint(128, 0xFFFF if kind < 0.9 else 0x10FFFF)
        return "字" if 0xD800 <= code < 0xE000 else chr(code)

    return ["".join(letter() for _ in range(rng.randint(1, longest))) for _ in range(count)]


def _bpe(bos: bool) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)]
        )
    return backend, special


def _wordpiece() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    parts = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{part}_token": f"[{part.upper()}]" for part in parts}
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=260, special_tokens=list(special.values()), show_progress=False
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return backend, special


def _unigram() -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=list(special.values()), unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return backend, special


@cache
def _made(kind: str) -> tuple[str, dict[str, str]]:
    """A trained tokenizer as JSON, and its special tokens; training it again could give other ids."""
    makers: dict[str, Callable[[], Any]] = {
        "bpe": lambda: _bpe(bos=False),
        "bos_bpe": lambda: _bpe(bos=True),
        "wordpiece": _wordpiece,
        "unigram": _unigram,
    }
    backend, special = makers[kind]()
    return backend.to_str(), special


def ours_and_theirs(kind: str, **settings: Any) -> tuple[Tokenizer, Any]:
    """A fresh pair on one vocabulary; ``settings`` are those of a configuration."""
    text, special = _made(kind)
    if kind == "wordpiece":
        settings = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], **settings}
    limit = settings.pop("model_max_length", None)
    extra = settings.pop("extra_special_tokens", ())
    ours = Tokenizer(
        tokenizers.Tokenizer.from_str(text),
        special_tokens=special,
        extra_special_tokens=extra,
        model_max_length=limit,
        other_config=settings,
    )
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(text),
        model_max_length=limit,
        extra_special_tokens=extra or None,
        **special,
        **settings,
    )
    return ours, theirs


def outcome(call: Callable[[], Any]) -> Any:
    """What a call gives as plain values, or the type of what it raises: ValueError for what Rust raises."""
    try:
        return plain(call())
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        return type(error)
    except BaseException as error:
        if type(error) is Exception or type(error).__module__ == "pyo3_runtime":
            return ValueError
        raise


def plain(value: Any) -> Any:
    if hasattr(value, "encodings"):
        rows = value.encodings or ()
        return {
            "columns": {name: plain(column) for name, column in value.items()},
            "rows": [(row.tokens, row.word_ids, row.sequence_ids, row.offsets) for row in rows],
            "n_sequences": value.n_sequences,
        }
    if hasattr(value, "tolist"):
        return type(value).__name__, str(value.dtype), plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
