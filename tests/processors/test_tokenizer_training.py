"""Training each kind from texts: the same bytes every time, special tokens, options, folders."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers

from conf.errors import ConfigError
from processors import Tokenizer, TrainOptions, train_bpe, train_tokenizer
from processors.options import KINDS
from processors.tokenizers.train import train_new_from_iterator
from tests.processors.scripts import SENTENCES
from tests.processors.test_kinds import TEXTS, agree, trained

ROOT = Path(__file__).parents[2]
# Many words that occur equally often, and characters that no piece covers: what a hash's order could decide.
CODE = """
import random
from processors import TrainOptions, train_tokenizer
from tests.processors.scripts import SENTENCES
rng = random.Random(0)
letters = "abcdefgh漢字😀q¼é "
texts = [f"word{i % 37} other{i % 11} the cat {i}" for i in range(300)] + SENTENCES
texts += ["".join(rng.choice(letters) for _ in range(60)) for _ in range(200)]
for kind in ("bpe", "bpe_byte_fallback", "wordpiece", "unigram", "characters"):
    size = 900 if kind != "unigram" else 700
    print(kind, train_tokenizer(texts, TrainOptions(train=kind, vocab_size=size)).fingerprint())
"""


def test_every_kind_is_the_same_byte_for_byte_in_every_process():
    runs = []
    for seed, threads in (("1", "1"), ("2", "2"), ("3", "3")):
        env = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        runs.append(
            subprocess.Popen([sys.executable, "-c", CODE], env=env, stdout=subprocess.PIPE, text=True)
        )
    found = [run.communicate()[0] for run in runs]
    assert found[0].count("\n") == len(KINDS)
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("kind", "first", "around"),
    [
        ("bpe", ["<|pad|>", "<|endoftext|>"], ("", "")),
        ("bpe_byte_fallback", ["<unk>", "<s>", "</s>", "<pad>", "<0x00>"], ("<s>", "")),
        ("wordpiece", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], ("[CLS]", "[SEP]")),
        ("unigram", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], ("[CLS]", "[SEP]")),
        ("characters", ["<pad>", "<s>", "</s>", "<unk>", "|"], ("", "")),
    ],
)
def test_special_tokens_and_the_folder(kind, first, around, tmp_path):
    ours = trained(kind)
    assert [ours.id_to_token(index) for index in range(len(first))] == first
    tokens = ours.convert_ids_to_tokens(ours.encode("a"))
    bare = ours.convert_ids_to_tokens(ours.encode("a", add_special_tokens=False))
    assert tokens == [token for token in (around[0], *bare, around[1]) if token]
    assert len(ours) <= 900
    assert sorted(ours.get_vocab().values()) == list(range(len(ours)))
    types = ours("a", "a", return_token_type_ids=True)["token_type_ids"]
    if kind in ("bpe_byte_fallback", "wordpiece", "unigram"):
        half = len(tokens) if kind == "bpe_byte_fallback" else len(tokens) - 1
        assert types == [0] * len(tokens) + [1] * half
    ours.save(tmp_path)
    assert Tokenizer.load(tmp_path).files() == ours.files()
    agree(ours, transformers.AutoTokenizer.from_pretrained(tmp_path), TEXTS[:30])


def test_the_options_have_effects():
    def vocab(kind: str, **options: object) -> set[str]:
        return set(train_tokenizer(iter(SENTENCES * 2), TrainOptions(train=kind, **options)).get_vocab())

    for kind in ("bpe", "bpe_byte_fallback", "wordpiece", "characters"):
        assert len(vocab(kind, min_frequency=50)) < len(vocab(kind))
    for kind in ("bpe_byte_fallback", "wordpiece", "unigram"):
        few = vocab(kind, character_coverage=0.7, vocab_size=900)
        assert "漢" in vocab(kind, character_coverage=1.0)
        assert "漢" not in few
        assert not any("漢" in piece for piece in few)
    assert "Z" not in vocab("wordpiece", do_lower_case=True) | vocab("unigram")
    assert "Z" in vocab("unigram", do_lower_case=False)
    assert "ż" in vocab("unigram", keep_accents=True) - vocab("unigram")
    assert "ż" in vocab("wordpiece", do_lower_case=True, strip_accents=False)
    assert "ż" not in vocab("wordpiece", do_lower_case=True)
    assert "##们" in vocab("wordpiece", tokenize_chinese_chars=False)
    assert not any(piece.startswith("##") and piece[2:] in "们,!" for piece in vocab("wordpiece"))
    text = "我们今天"
    cut = trained("wordpiece").tokenize(text)
    assert cut == list(text) != trained("wordpiece", tokenize_chinese_chars=False).tokenize(text)
    assert len(vocab("characters", vocab_size=20)) == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"train": "bpe", "do_lower_case": True},
            "do_lower_case: True has no effect on a bpe tokenizer, only on wordpiece, unigram, characters.",
        ),
        (
            {"train": "unigram", "min_frequency": 3},
            "min_frequency: 3 has no effect on a unigram tokenizer, only on bpe, bpe_byte_fallback, "
            "wordpiece, characters.",
        ),
        ({"train": "wordpiece", "keep_accents": False}, "keep_accents: False has no effect on a wordpiece"),
        ({"min_frequency": 0}, "min_frequency: 0 is less than 1."),
        ({"vocab_size": 0}, "vocab_size: 0 is less than 1."),
        (
            {"train": "unigram", "character_coverage": 0.0},
            "character_coverage: 0.0 is not above 0 and up to 1.",
        ),
        ({"train": "wordpiece", "vocab_size": 30}, "vocab_size: 30 is too small; the special tokens and the"),
        ({"train": "unigram", "vocab_size": 30}, "a lower character_coverage needs less"),
        (
            {"train": "bpe_byte_fallback", "vocab_size": 30},
            "the 256 bytes and 4 special tokens already need 260",
        ),
        (
            {"train": "bpe_byte_fallback", "vocab_size": 261},
            "vocab_size: 261 is too small; the bytes, the spec",
        ),
        (
            {"train": "characters", "vocab_size": 5},
            "vocab_size: 5 is too small; the special tokens, the mark",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(ConfigError) as caught:
        train_tokenizer(SENTENCES, TrainOptions(**options))
    assert str(caught.value).startswith("processor.tokenizer.")
    assert said in str(caught.value)


def test_a_chat_template_goes_with_what_gives_texts_back():
    options = TrainOptions(vocab_size=900)
    for kind in ("bpe", "bpe_byte_fallback"):
        for template, markers in (("chatml", ("<|im_start|>", "<|im_end|>")), ("mistral", ("[INST]",))):
            tokenizer = train_tokenizer(SENTENCES, replace(options, train=kind), template)
            assert set(markers) <= tokenizer.special_texts
            assert tokenizer.eos_token == ("<|im_end|>" if template == "chatml" else "</s>")
            assert tokenizer.chat_templates.keys() == {"default"}
    assert (
        train_tokenizer(SENTENCES, options, "llama3").files()
        == train_bpe(SENTENCES, options, "llama3").files()
    )
    for kind in ("wordpiece", "unigram", "characters"):
        with pytest.raises(ConfigError, match=f"gives every text back as it was, which {kind} does not"):
            train_tokenizer(SENTENCES, replace(options, train=kind), "chatml")


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_training_a_tokenizer_like_a_given_one(kind, tmp_path):
    trained(kind).save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    renamed = {trained(kind).pad_token: "<filling>"}
    if kind != "bpe":
        renamed["[SEP]"] = "[END]"
    texts = [text.lower() for text in SENTENCES[:5] * 4]
    given = {"new_special_tokens": ["<new>"], "special_tokens_map": renamed}
    wanted = theirs.train_new_from_iterator([texts[:9], texts[9:]], 400, **given)
    found = train_new_from_iterator(Tokenizer.load(tmp_path), iter([texts[:9], texts[9:]]), 400, **given)
    assert found.files() == train_new_from_iterator(Tokenizer.load(tmp_path), texts, 400, **given).files()
    assert found.special_tokens_map == wanted.special_tokens_map
    assert found.extra_special_tokens == wanted.extra_special_tokens
    # Theirs adds the old names again, at the end.
    vocab = {token: i for token, i in wanted.get_vocab().items() if token not in renamed}
    assert len(found) == len(vocab)
    # Which of equally frequent pairs of pieces is merged differs between two of its runs too.
    common = found.get_vocab().keys() & vocab.keys()
    assert len(common) >= (0.8 if kind == "wordpiece" else 1) * len(vocab)
    if kind == "bpe":
        assert found.get_vocab() == vocab
        agree(found, wanted, TEXTS[:30])
    assert found.token_to_id("<new>") == wanted.convert_tokens_to_ids("<new>")
    for text in ("a", ""):
        ends = found.encode(text), wanted.encode(text)
        assert ends[0][:1] == ends[1][:1]
        assert ends[0][-1:] == ends[1][-1:]
    assert found.chat_templates == {}
    assert found.encode("a") != Tokenizer.load(tmp_path).encode("a") or kind == "bpe"


def test_training_one_like_llamas_keeps_the_bytes():
    base = trained("bpe_byte_fallback")
    found = train_new_from_iterator(base, ["abc abd abc " * 9], 300)
    assert found.leading_ids == (found.bos_token_id,) == (1,)
    assert "▁ab" in found.get_vocab()
    assert found.decode(found.encode("漢"), skip_special_tokens=True) == "漢"
    assert base.encode("漢") != found.encode("漢")  # and the given one is as it was
    assert "<0x0A>" in base.get_vocab()
    words = Tokenizer(trained("characters").backend, special_tokens={"unk_token": "<unk>"})
    assert train_new_from_iterator(words, ["abba"], 90).tokenize("ab") == ["a", "b"]
