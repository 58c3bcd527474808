"""Plain text and instructions as documents."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from conf.errors import ConfigError
from conf.plugins import options_of, thing_of
from processors import (
    FORMATS,
    InstructionDocuments,
    InstructionFormat,
    RowError,
    TextDocuments,
    TextFormat,
    Tokenizer,
    TrainOptions,
    show,
    train_bpe,
)

NOVEL = Path(__file__).parents[2] / "recipes" / "data" / "austen" / "validation.txt"


def test_every_format_resolves_and_reads_a_row(tokenizer_for):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    row = {"messages": messages, "text": "some text", "instruction": "do", "output": "done"}
    texts = {"chat": ["q", "a"], "text": ["some text"], "instruction": ["do", "done"]}
    assert set(texts) == set(FORMATS)
    for name in FORMATS:
        options, thing = options_of(FORMATS, name, "format")(), thing_of(FORMATS, name, "format")
        made = thing(options, tokenizer=tokenizer_for("chatml"), max_length=64)
        (document,) = made.encode(row)
        assert document["input_ids"].shape == document["loss_mask"].shape
        assert made.report().documents == 1
        assert list(thing.texts(options, row)) == texts[name]


@pytest.mark.parametrize("name", [None, "chatml", "llama2"])
@pytest.mark.parametrize("length", [3, 4, 7, 50])
def test_long_texts_are_split_and_nothing_is_lost(name, length, tokenizer_for, make_text):
    tokenizer = tokenizer_for(name)
    chunker = TextDocuments(TextFormat(), tokenizer=tokenizer, max_length=length)
    rng = random.Random(5)
    texts = ["".join(make_text(rng) for _ in range(rng.randint(1, 5))) for _ in range(40)]
    for text, documents in zip(texts, chunker.encode_batch([{"text": text} for text in texts]), strict=True):
        ids = np.concatenate([document["input_ids"] for document in documents])
        assert ids.tolist() == [*tokenizer.encode(text), tokenizer.eos_token_id]
        sizes = [len(document["input_ids"]) for document in documents]
        assert max(sizes) <= length
        assert min(sizes) >= 2
        assert all(size >= length - 1 for size in sizes[:-1])
        assert all(document["loss_mask"].all() for document in documents)


def test_special_tokens_in_a_text_stay_text(tokenizer_for):
    tokenizer = tokenizer_for(None)
    (document,) = TextDocuments(TextFormat(), tokenizer=tokenizer, max_length=100).encode(
        {"text": "a<|endoftext|>b"}
    )
    ids = document["input_ids"].tolist()
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == "a<|endoftext|>b<|endoftext|>"


def test_bad_texts_and_settings(tokenizer_for):
    chunker = TextDocuments(TextFormat(), tokenizer=tokenizer_for(None), max_length=8)
    for row, sentence in [
        ({"body": "x"}, "the column 'text' is missing (there are body); it must be text."),
        ({"text": 3}, "the column 'text' holds a value of type int; it must be text."),
        ({"text": " \n"}, "the column 'text' is empty."),
    ]:
        with pytest.raises(RowError) as caught:
            chunker.encode_batch([{"text": "good"}, row])
        assert str(caught.value) == sentence
        assert caught.value.index == 1
    with pytest.raises(ConfigError, match=r"data.max_length: 2 is too short"):
        TextDocuments(TextFormat(), tokenizer=tokenizer_for(None), max_length=2)
    endless = Tokenizer(tokenizer_for(None).backend, special_tokens={})
    with pytest.raises(ConfigError, match="no EOS token"):
        TextDocuments(TextFormat(), tokenizer=endless, max_length=8)
    with pytest.raises(ConfigError, match="neither a chat template nor an EOS token"):
        InstructionDocuments(InstructionFormat(), tokenizer=endless, max_length=8)


def test_half_a_surrogate_pair_is_named_and_what_vanishes_gives_nothing(tokenizer_for):
    tokenizer, bad = tokenizer_for("chatml"), "a\ud83d"
    message = [{"role": "user", "content": bad}, {"role": "assistant", "content": "b"}]
    rows = {"text": {"text": bad}, "chat": {"messages": message}, "instruction": {"instruction": bad}}
    for name, row in rows.items():
        options, thing = (of(FORMATS, name, "format") for of in (options_of, thing_of))
        with pytest.raises(RowError, match="half of a surrogate pair at character 1") as raised:
            thing(options(), tokenizer=tokenizer, max_length=9).encode(row)
        assert raised.value.index == 0
        with pytest.raises(RowError, match="half of a surrogate pair"):
            list(thing.texts(options(), row))
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<e>": 1}, unk_token="a"))
    backend.normalizer = tokenizers.normalizers.Replace("\u200b", "")
    small = Tokenizer(backend, special_tokens={"eos_token": "<e>"})
    reader = TextDocuments(TextFormat(), tokenizer=small, max_length=9)
    nothing, (something,) = reader.encode_batch([{"text": "\u200b"}, {"text": "a"}])
    assert nothing == []
    assert something["input_ids"].tolist() == [0, 1]


def test_a_novel(tokenizer_for):
    paragraphs = NOVEL.read_text(encoding="utf-8").split("\n\n")
    tokenizer = train_bpe(paragraphs, TrainOptions(vocab_size=2048))
    chunker = TextDocuments(TextFormat(), tokenizer=tokenizer, max_length=128)
    documents = [d for found in chunker.encode_batch([{"text": p} for p in paragraphs]) for d in found]
    text = "".join(tokenizer.decode(document["input_ids"].tolist()) for document in documents)
    assert text == "".join(p + "<|endoftext|>" for p in paragraphs)
    assert chunker.report().documents == len(documents) >= chunker.report().rows == len(paragraphs)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "Be brief.\n\n### Instruction:\nAdd.\n\n1 2\n\n### Response:\n[[3<|endoftext|>]]\n\n"),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n"
            "<|im_start|>assistant\n[[3<|im_end|>]]\n",
        ),
    ],
)
def test_instructions(name, text, tokenizer_for):
    tokenizer = tokenizer_for(name)
    reader = InstructionDocuments(InstructionFormat(), tokenizer=tokenizer, max_length=100)
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be brief."}
    (document,) = reader.encode(row)
    assert show(document, tokenizer, colour=False) == text
    (bare,) = reader.encode({"instruction": "Add.", "input": "", "output": "3"})
    assert "Add.\n\n1" not in tokenizer.decode(bare["input_ids"].tolist())
    assert reader.report().answers == 2
    with pytest.raises(RowError, match="the column 'output' is missing"):
        reader.encode({"instruction": "Add."})


def test_a_long_instruction_is_cut_and_counted(tokenizer_for):
    reader = InstructionDocuments(InstructionFormat(), tokenizer=tokenizer_for("chatml"), max_length=24)
    assert reader.encode({"instruction": "word " * 50, "output": "x"}) == []
    (cut,) = reader.encode({"instruction": "a", "output": "word " * 50})
    assert len(cut["input_ids"]) == 24
    report = reader.report()
    assert (report.rows, report.answers, report.answers_cut, report.rows_without_target) == (2, 2, 2, 1)
