"""Training a tokenizer on the run's own texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from conf.errors import ConfigError
from processors import templates
from processors.options import TrainOptions
from processors.templates import Kit
from processors.tokenizers.families import ALBERT, BERT, LLAMA, Family
from processors.tokenizers.kinds import byte_fallback, byte_level, characters, unigram, wordpiece
from processors.tokenizers.kinds.alphabet import characters_of
from processors.tokenizers.kinds.pieces import Pieces
from processors.tokenizers.retraining import retrained
from processors.tokenizers.special_tokens import SpecialTokens
from processors.tokenizers.tokenizer import Tokenizer

WORD_DELIMITER = "|"
# Of the special tokens of BERT and ALBERT, in the order of their ids.
_ORDER = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")


def train_tokenizer(
    texts: Iterable[str], options: TrainOptions, chat_template: str | None = None
) -> Tokenizer:
    """A tokenizer for ``texts``; the same texts and options give the same one, byte for byte.

    ``texts`` may be gone through again, so what can be only once (an iterator) is kept in memory. Special
    tokens, the first ids, are those of the models that use the kind: of BERT (``wordpiece``), ALBERT
    (``unigram``), Llama 2 (``bpe_byte_fallback``), wav2vec 2.0 (``characters``); those of a named
    ``chat_template`` for the two kinds of BPE, with which it goes along. Raises ``ConfigError`` for options
    that the kind has no use for, a vocabulary too small for what it must hold, and a template with another
    kind.
    """
    if problem := next(options.problems(), None):
        raise ConfigError(f"processor.tokenizer.{problem}")
    if options.train == "bpe":
        return train_bpe(texts, options, chat_template)
    kept = list(texts) if isinstance(texts, Iterator) else texts
    if options.train == "bpe_byte_fallback":
        return _byte_fallback(kept, options, chat_template)
    if chat_template is not None:
        raise ConfigError(
            f"processor.chat_template: {chat_template!r} needs a tokenizer that gives every text back as it "
            f"was, which {options.train} does not; train bpe or bpe_byte_fallback."
        )
    kinds: dict[str, Callable[[Iterable[str], TrainOptions], Tokenizer]] = {
        "wordpiece": _wordpiece,
        "unigram": _unigram,
        "characters": _characters,
    }
    return kinds[options.train](kept, options)


def train_bpe(texts: Iterable[str], options: TrainOptions, chat_template: str | None = None) -> Tokenizer:
    """Byte-level BPE over ``texts``, gone through once.

    Any text can be encoded and comes back exactly. Special tokens (the first ids) are those of the named
    ``chat_template``, which goes along; its end-of-turn token is the EOS token, so that generation stops
    there.
    """
    kit = _kit(chat_template)
    special = kit.special_tokens
    needed = len(byte_level.ALPHABET) + len(special)
    _make_room(options, needed, f"the {len(byte_level.ALPHABET)} bytes and {len(special)} special tokens")
    backend = byte_level.pipeline({}, ())
    byte_level.train(backend, texts, vocab_size=options.vocab_size, special=special, **options.settings())
    post: processors.PostProcessor = processors.ByteLevel(trim_offsets=False)  # the leading space of a word
    if kit.bos is not None:
        begin = processors.TemplateProcessing(
            single=f"{kit.bos} $A",
            pair=f"{kit.bos} $A $B",
            special_tokens=[(kit.bos, special.index(kit.bos))],
        )
        post = processors.Sequence([post, begin])
    backend.post_processor = post
    roles = {"bos_token": kit.bos, "eos_token": kit.eos, "pad_token": kit.pad}
    named = {role: token for role, token in roles.items() if token}
    return _tokenizer(backend, named, special, chat_template)


def _byte_fallback(texts: Iterable[str], options: TrainOptions, chat_template: str | None) -> Tokenizer:
    kit = _kit(chat_template or "llama2")
    roles = {**LLAMA.roles, "eos_token": kit.eos, "pad_token": kit.pad}
    special = tuple(dict.fromkeys((roles["unk_token"], roles["bos_token"], kit.eos, *kit.special_tokens)))
    held = len(byte_fallback.BYTES) + len(special)
    _make_room(options, held, f"the {len(byte_fallback.BYTES)} bytes and {len(special)} special tokens")
    ids, merges = byte_fallback.train(
        texts, vocab_size=options.vocab_size, special=special, **options.settings()
    )
    _make_room(options, len(ids), "the bytes, the special tokens and the characters of the texts")
    backend = LLAMA.build(Pieces(ids=ids, merges=merges), {**roles, "add_bos_token": True})
    return _tokenizer(backend, roles, special, chat_template)


def _wordpiece(texts: Iterable[str], options: TrainOptions) -> Tokenizer:
    settings = options.settings()
    normal = {name: settings.pop(name) for name in BERT.settings}
    special = [BERT.roles[role] for role in _ORDER]
    empty = BERT.build(Pieces(ids={token: index for index, token in enumerate(special)}), normal)
    ids = wordpiece.train(empty, texts, vocab_size=options.vocab_size, special=special, **settings)
    _make_room(options, len(ids), "the special tokens and the characters of the texts, many also after ##,")
    return _of_family(BERT, Pieces(ids=ids), normal)


def _unigram(texts: Iterable[str], options: TrainOptions) -> Tokenizer:
    settings = options.settings()
    normal = {name: settings.pop(name) for name in ("do_lower_case", "keep_accents")}
    special = [ALBERT.roles[role] for role in _ORDER]
    empty = ALBERT.build(Pieces(scores=[(token, 0.0) for token in special]), normal)
    alphabet = characters_of(texts, empty.normalizer, settings["character_coverage"])
    needed = len(special) + 1 + len(alphabet)
    _make_room(options, needed, "the special tokens, the space and the characters of the texts")
    scores = unigram.train(
        empty,
        texts,
        vocab_size=options.vocab_size,
        alphabet=alphabet,
        special=special,
        unk_token=ALBERT.roles["unk_token"],
    )
    return _of_family(ALBERT, Pieces(scores=scores), normal)


def _characters(texts: Iterable[str], options: TrainOptions) -> Tokenizer:
    settings = options.settings()
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = [*roles.values(), WORD_DELIMITER]
    _make_room(options, len(special) + 1, "the special tokens, the mark between words and one character")
    lower = settings.pop("do_lower_case")
    shape = {
        "unk_token": roles["unk_token"],
        "word_delimiter_token": WORD_DELIMITER,
        "do_lower_case": lower,
    }
    learner = characters.pipeline({}, **shape)
    ids = characters.train(learner, texts, vocab_size=options.vocab_size, special=special, **settings)
    return Tokenizer(characters.pipeline(ids, **shape), special_tokens=roles)


def train_new_from_iterator(
    tokenizer: Tokenizer,
    text_iterator: Iterable[str | Sequence[str]],
    vocab_size: int,
    new_special_tokens: Sequence[str | AddedToken] | None = None,
    special_tokens_map: Mapping[str, str] | None = None,
    **options: Any,
) -> Tokenizer:
    """A tokenizer of the class and pipeline of ``tokenizer`` with pieces for other texts; see ``retrained``.

    ``special_tokens_map`` renames special tokens, and ``new_special_tokens`` are extra ones.
    """
    names, new = dict(special_tokens_map or {}), list(new_special_tokens or ())
    backend = retrained(
        tokenizer.backend,
        text_iterator,
        vocab_size,
        new_special_tokens=new,
        special_tokens_map=names,
        **options,
    )
    made = copy.copy(tokenizer)
    made.original_files = {}
    special = {role: names.get(token, token) for role, token in tokenizer.special_tokens.items()}
    extra = [names.get(token, token) for token in tokenizer.extra_special_tokens]
    SpecialTokens.__init__(made, backend, special, [*extra, *map(str, new)])
    return made


def _kit(chat_template: str | None) -> Kit:
    return templates.TEMPLATES[templates.known(chat_template)] if chat_template else templates.PLAIN


def _make_room(options: TrainOptions, needed: int, what: str) -> None:
    if options.vocab_size < needed:
        less = "; a lower character_coverage needs less" if "texts" in what else ""
        raise ConfigError(
            f"processor.tokenizer.vocab_size: {options.vocab_size} is too small; {what} "
            f"already need {needed}{less}."
        )


def _tokenizer(
    backend: tokenizers.Tokenizer,
    roles: Mapping[str, str],
    special: Iterable[str],
    chat_template: str | None,
) -> Tokenizer:
    return Tokenizer(
        backend,
        special_tokens=roles,
        extra_special_tokens=[token for token in special if token not in roles.values()],
        chat_templates={"default": templates.source(chat_template)} if chat_template else None,
    )


def _of_family(family: Family, vocabulary: Pieces, settings: Mapping[str, object]) -> Tokenizer:
    return Tokenizer(
        family.build(vocabulary, settings),
        special_tokens=family.roles,
        other_config={**settings, **family.usage},
    )
