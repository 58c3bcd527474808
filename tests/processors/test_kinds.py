"""Kinds of tokenizer against the reference's classes: ids, tokens, offsets, texts."""

from __future__ import annotations

import json
import warnings
from functools import cache
from typing import Any

import pytest
import transformers
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy as TheirLegacy
from transformers.models.wav2vec2.tokenization_wav2vec2 import Wav2Vec2CTCTokenizer

from processors import Tokenizer, TrainOptions, train_tokenizer
from processors.tokenizers import AlbertTokenizer, BertTokenizer, BertTokenizerLegacy, LlamaTokenizer
from tests.processors.scripts import SENTENCES, random_texts

TEXTS = [*SENTENCES, *random_texts(0, 60)]


@cache
def trained(kind: str, **options: Any) -> Tokenizer:
    full = {} if kind in ("bpe", "characters") else {"character_coverage": 1.0}
    return train_tokenizer(SENTENCES * 3, TrainOptions(train=kind, vocab_size=900, **full, **options))


def agree(ours: Tokenizer, theirs: Any, texts: list[str] = TEXTS) -> None:
    """Both give the same for every text, alone and in a pair, and decode it to the same."""
    columns = [name for name in theirs.model_input_names if name in ours.model_input_names]
    for text in texts:
        for special in (True, False):
            found = ours(text, add_special_tokens=special)
            wanted = theirs(text, add_special_tokens=special, return_offsets_mapping=theirs.is_fast)
            ids = wanted["input_ids"]
            assert found["input_ids"] == ids, text
            assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
            if theirs.is_fast:
                assert found.encodings[0].offsets == wanted["offset_mapping"], text
            for skip in (True, False):
                decoded = theirs.decode(ids, skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == decoded
        found, wanted = ours(text, f"{text} b"), theirs(text, f"{text} b")
        assert [found[name] for name in columns] == [wanted[name] for name in columns]


@pytest.mark.parametrize(
    "settings", [{}, {"do_lower_case": True}, {"do_lower_case": True, "strip_accents": False}], ids=str
)
def test_wordpiece(settings):
    vocab = trained("wordpiece", **settings).get_vocab()
    theirs = transformers.BertTokenizer(vocab, **{"do_lower_case": False, **settings})
    agree(trained("wordpiece", **settings), theirs)
    agree(BertTokenizer(vocab, **settings), theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False, "strip_accents": True},
        {"never_split": ["fox", "Zażółć", "漢"], "tokenize_chinese_chars": False, "strip_accents": False},
        {"do_basic_tokenize": False, "clean_up_tokenization_spaces": False},
    ],
    ids=str,
)
def test_wordpiece_in_python(settings, tmp_path):
    pieces = sorted(trained("wordpiece").get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece, _ in pieces))
    ours = BertTokenizerLegacy(tmp_path / "vocab.txt", **settings)
    theirs = TheirLegacy(str(tmp_path / "vocab.txt"), **settings)
    agree(ours, theirs)
    special = "[MASK] a [SEP]fox[UNK]"
    assert ours.tokenize(special) == theirs.tokenize(special)
    assert ours("a", "")["input_ids"] == theirs("a", "")["input_ids"]
    if ours.do_basic_tokenize:
        assert not {2, 3, 4} & set(ours.encode_literally([special], add_special_tokens=False)[0])
    asked = {"padding": True, "truncation": True, "max_length": 12, "return_special_tokens_mask": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ours(TEXTS, **asked)
    wanted = theirs(TEXTS, **asked)
    assert {name: found[name] for name in wanted} == dict(wanted)
    ours.save(tmp_path / "saved")
    again = BertTokenizerLegacy.from_pretrained(tmp_path / "saved")
    assert again.files() == ours.files()
    assert again.encode_batch(TEXTS) == ours.encode_batch(TEXTS)
    agree(again, TheirLegacy.from_pretrained(tmp_path / "saved"), TEXTS[:20])
    with pytest.raises(ValueError, match="it knows no offsets; BertTokenizer would do"):
        ours("a", return_offsets_mapping=True)


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False, "keep_accents": True}], ids=str)
def test_unigram(settings):
    tokenizer = trained("unigram", **settings)
    pieces = [tuple(entry) for entry in json.loads(tokenizer.backend.to_str())["model"]["vocab"]]
    agree(tokenizer, transformers.AlbertTokenizer(pieces, **settings))
    other = {**settings, "add_prefix_space": False}
    agree(AlbertTokenizer(pieces, **other), transformers.AlbertTokenizer(pieces, **other))


@pytest.mark.parametrize(
    "settings",
    [{}, {"add_prefix_space": False}, {"legacy": True}, {"add_bos_token": True, "add_eos_token": True}],
    ids=str,
)
def test_byte_fallback(settings):
    model = json.loads(trained("bpe_byte_fallback").backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    agree(
        LlamaTokenizer(model["vocab"], merges, **settings),
        transformers.LlamaTokenizer(model["vocab"], merges, **settings),
    )


def test_what_is_trained_with_byte_fallback_gives_every_text_back():
    tokenizer = train_tokenizer(SENTENCES, TrainOptions(train="bpe_byte_fallback", vocab_size=600), "llama2")
    assert [tokenizer.id_to_token(i) for i in (0, 1, 2, 3, 4, 259)] == [
        *("<unk>", "<s>", "</s>", "<pad>", "<0x00>", "<0xFF>")
    ]
    assert tokenizer.leading_ids == (1,)
    plain = [text for text in TEXTS if "▁" not in text and not text.startswith(" ")]
    assert len(plain) > 50
    for text in plain:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    # A piece with a space inside could only have come from a text cut at other places than words.
    assert not any("▁" in piece[1:] for piece in tokenizer.get_vocab())


def test_characters(tmp_path):
    tokenizer = trained("characters")
    (tmp_path / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    theirs = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    texts = [text for text in TEXTS if not {"<", "[", "|"} & set(text)]
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert tokenizer(text)["input_ids"] == ids
        # Theirs leaves out the padding token and the white space around a text.
        assert tokenizer.decode(ids).strip() == theirs.decode(ids, group_tokens=False)
    lower = trained("characters", do_lower_case=True)
    assert lower.decode(lower.encode("Ab C")) == "ab c"
    assert "T" in tokenizer.get_vocab().keys() - lower.get_vocab().keys()
