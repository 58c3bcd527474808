"""Calling a tokenizer: every option against the reference's tokenizer on the same vocabulary."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
import warnings
from typing import Any

import pytest

from processors import Tokenizer
from processors.tokenizers.lengths import PaddingStrategy, TruncationStrategy
from tests.processors.trained import KINDS, TEXTS, ours_and_theirs, outcome, random_texts

WORDS = [text.split() for text in TEXTS]
INPUTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "one": ((TEXTS[0],), {}),
    "pair": ((TEXTS[1], TEXTS[7]), {}),
    "second empty": ((TEXTS[1], ""), {}),
    "batch": ((TEXTS,), {}),
    "batch of one": ((TEXTS[:1],), {}),
    "batch of pairs": ((TEXTS, TEXTS[::-1]), {}),
    "tuples": (([(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])],), {}),
    "words": ((WORDS[0],), {"is_split_into_words": True}),
    "pair of words": ((WORDS[7], WORDS[0]), {"is_split_into_words": True}),
    "batch of words": ((WORDS, WORDS[::-1]), {"is_split_into_words": True}),
    "random": ((random_texts(1, 30),), {}),
    "random pairs": ((random_texts(2, 20), random_texts(3, 20)), {}),
}
EVERYTHING = {
    "return_token_type_ids": True,
    "return_attention_mask": True,
    "return_special_tokens_mask": True,
    "return_offsets_mapping": True,
    "return_length": True,
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False, **EVERYTHING},
    {"padding": True, **EVERYTHING},
    {"padding": "max_length", "max_length": 40},
    {"padding": PaddingStrategy.LONGEST, "pad_to_multiple_of": 8, "padding_side": "left", **EVERYTHING},
    {"max_length": 9},
    {"truncation": True, "max_length": 12, "padding": "max_length", "return_tensors": "pt", **EVERYTHING},
    {
        "truncation": TruncationStrategy.LONGEST_FIRST,
        "max_length": 16,
        "padding": True,
        "return_tensors": "np",
    },
    {"truncation": "only_first", "max_length": 60, "pad_to_multiple_of": 4, "padding": "max_length"},
    {"truncation": True, "max_length": 16, "return_overflowing_tokens": True, "stride": 1, **EVERYTHING},
    {
        "truncation": True,
        "max_length": 14,
        "return_overflowing_tokens": True,
        "padding": "max_length",
        "return_tensors": "pt",
        "return_offsets_mapping": True,
    },
    {"truncation": True},
    {"padding": "max_length"},
    {"padding": "do_not_pad", "truncation": "do_not_truncate", "max_length": 3},
    {"split_special_tokens": True},
    {"return_attention_mask": False, "return_token_type_ids": False},
]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_on_every_kind_of_input(kind: str, side: str) -> None:
    ours, theirs = ours_and_theirs(kind, truncation_side=side, padding_side=side, model_max_length=30)
    for (name, (texts, more)), options in itertools.product(INPUTS.items(), OPTIONS):
        found = outcome(lambda: ours(*texts, **more, **options))  # noqa: B023
        expected = outcome(lambda: theirs(*texts, **more, **options))  # noqa: B023
        assert found == expected, (name, options)
    assert ours.backend.truncation is None
    assert ours.backend.padding is None


@pytest.mark.parametrize("kind", KINDS)
def test_second_text_alone_is_cut(kind: str) -> None:
    ours, theirs = ours_and_theirs(kind)
    question, texts = "Why?", [text * 3 for text in TEXTS if len(text) > 20]
    options = {"truncation": "only_second", "stride": 4, "return_overflowing_tokens": True, "max_length": 24}
    for tensors in (None, "pt"):
        more = {"padding": "max_length", "return_tensors": tensors, **options, **EVERYTHING}
        found = outcome(lambda: ours([question] * len(texts), texts, **more))  # noqa: B023
        assert found == outcome(lambda: theirs([question] * len(texts), texts, **more))  # noqa: B023
        assert len(found["rows"]) > len(texts)


def test_targets_become_labels() -> None:
    ours, theirs = ours_and_theirs("wordpiece")
    for options in (
        {"text": TEXTS, "text_target": TEXTS[::-1]},
        {"text_target": TEXTS, "text_pair_target": TEXTS[::-1]},
        {
            "text": TEXTS[0],
            "text_target": TEXTS[1],
            "truncation": True,
            "max_length": 9,
            "max_target_length": 5,
        },
        {"text": TEXTS[0], "tokenizer_kwargs": {"padding": "max_length", "max_length": 30}},
    ):
        assert outcome(lambda: ours(**options)) == outcome(lambda: theirs(**options))  # noqa: B023


WRONG: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "neither text nor text_target"),
    ((3,), {}, "text: 3 was given"),
    (([3],), {}, "a list of texts"),
    (("a", 3), {}, "text_pair: 3 was given"),
    ((["a", "b"], "c"), {}, "one text was given for a batch"),
    ((["a", "b"], ["c"]), {}, "1 texts were given for a batch of 2"),
    (("a",), {"padding": "long"}, "'long' was given"),
    (("a",), {"truncation": "last"}, "'last' was given"),
    (("a",), {"padding": True, "padding_side": "top"}, "'top' was given"),
    (("a",), {"return_tensors": "tf2"}, "one of pt, np would do"),
    ((["a", "b c d"],), {"return_tensors": "pt"}, "padding=True and truncation=True"),
    (("a",), {"padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 4}, "8 would do"),
    (("a b c",), {"truncation": True, "max_length": 5, "stride": 7}, "stride"),
    (("a b c d e f g",), {"truncation": "only_second", "max_length": 5}, "Second sequence not provided"),
    (("a b c d", "e"), {"truncation": "only_second", "max_length": 5}, "too short"),
    ((["a", float("nan")],), {}, "row 1 holds nan; a text would do"),
    (([("a", "b"), ("a", None)],), {}, "row 1 holds None"),
    (([["a", "b"], ["a", 3]],), {"is_split_into_words": True}, "row 1 holds 3"),
    ((["a", "b\ud83d"],), {}, "row 1 holds half of a surrogate pair"),
]


@pytest.mark.parametrize(("texts", "options", "says"), WRONG)
def test_what_is_wrong_is_said_with_the_reference_s_type(texts: Any, options: Any, says: str) -> None:
    ours, theirs = ours_and_theirs("wordpiece")
    with pytest.raises((ValueError, TypeError), match=says) as raised:
        ours(*texts, **options)
    assert outcome(lambda: theirs(*texts, **options)) is raised.type


def test_what_the_reference_does_not_say() -> None:
    ours, theirs = ours_and_theirs("bpe")
    assert ours([]).data == {"input_ids": [], "attention_mask": []}
    with pytest.raises(TypeError, match="no pading"):
        ours("a", pading=True)
    ours.pad_token = theirs.pad_token = None
    for tokenizer in (ours, theirs):
        with pytest.raises(ValueError, match="pad_token"):
            tokenizer("a", padding=True)
    ours.pad_token = "not in the vocabulary"
    with pytest.raises(ValueError, match="'not in the vocabulary' is not in the vocabulary"):
        ours("a", padding=True)
    with pytest.raises(ValueError, match="a text cannot be cut as asked"):  # Rust panics in the reference
        ours("a b c d e f g h", "a b c d", truncation="only_first", max_length=9, stride=6)


def test_long_texts_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    ours, _ = ours_and_theirs("bpe", model_max_length=5)
    ours(TEXTS[7], verbose=False)
    ours(TEXTS[7], max_length=9, truncation=True)
    ours(TEXTS)
    ours.encode(TEXTS[7])
    assert capsys.readouterr().err.count("longer than the model's limit of 5") == 1
    with pytest.warns(UserWarning, match="max_length has no effect"):
        ours("a", padding=True, max_length=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours("a", padding=True, max_length=9, truncation=True)


@pytest.mark.parametrize("kind", KINDS)
def test_encode_tokenize_decode(kind: str) -> None:
    import numpy as np
    import torch

    ours, theirs = ours_and_theirs(kind, clean_up_tokenization_spaces=True)
    for text in (*TEXTS, *random_texts(4, 40)):
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.encode(text, "b", max_length=4, truncation=True) == theirs.encode(
            text, "b", max_length=4, truncation=True
        )
        assert ours.tokenize(text, add_special_tokens=True) == theirs.tokenize(text, add_special_tokens=True)
        tokens = ours.convert_ids_to_tokens(ids, skip_special_tokens=True)
        assert tokens == theirs.convert_ids_to_tokens(ids, skip_special_tokens=True)
        assert ours.convert_tokens_to_ids(tokens) == theirs.convert_tokens_to_ids(tokens)
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        for skip, clean in itertools.product((False, True), (False, True, None)):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.decode(ids, **options) == theirs.decode(ids, **options)
    batch = ours(TEXTS, padding=True, return_tensors="pt")
    expected = theirs.batch_decode(batch["input_ids"])
    for given in (batch["input_ids"], batch["input_ids"].numpy(), batch, [*batch["input_ids"]]):
        assert ours.batch_decode(given) == expected == ours.decode(given)
    assert ours.decode(5) == theirs.decode(5)
    assert ours.decode(torch.tensor(5)) == ours.decode(np.int64(5)) == theirs.decode(5)
    assert ours.decode([]) == theirs.decode([]) == ""
    assert ours.batch_decode([5, 6]) == [ours.decode([5, 6])]
    assert ours.convert_ids_to_tokens(np.array([5, 6])) == theirs.convert_ids_to_tokens([5, 6])
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    tight = "do n't , we 're ' so ' . ? ! I 'm he 's they 've"
    assert ours.clean_up_tokenization(tight) == theirs.clean_up_tokenization(tight)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_made_of_ids(kind: str) -> None:
    """Against the reference's own call on texts, whose layout is the post-processor's."""
    ours, theirs = ours_and_theirs(kind)
    for one, two in itertools.product(TEXTS, (None, *TEXTS[:3])):
        ids = ours.encode(one, add_special_tokens=False)
        # the second of a pair begins a text of its own
        pair = None if two is None else ours.encode(two, add_special_tokens=False)
        whole = theirs(one, two, **EVERYTHING)
        assert ours.build_inputs_with_special_tokens(ids, pair) == whole["input_ids"]
        assert ours.create_token_type_ids_from_sequences(ids, pair) == whole["token_type_ids"]
        assert ours.get_special_tokens_mask(ids, pair) == whole["special_tokens_mask"]
        assert ours.get_special_tokens_mask(
            whole["input_ids"], already_has_special_tokens=True
        ) == theirs.get_special_tokens_mask(whole["input_ids"], already_has_special_tokens=True)
        assert ours.num_special_tokens_to_add(two is not None) == len(whole["input_ids"]) - len(
            ids + (pair or [])
        )
        options = {"padding": "max_length", "max_length": 90, "truncation": True}
        made = ours.prepare_for_model(ids, pair, return_special_tokens_mask=True, **options)
        direct = theirs(one, two, return_special_tokens_mask=True, **options)
        assert {name: made[name] for name in direct} == dict(direct)
    assert ours.max_len_sentences_pair == theirs.max_len_sentences_pair
    assert ours.max_len_single_sentence == theirs.max_len_single_sentence


@pytest.mark.parametrize("kind", KINDS)
def test_texts_begin_and_end_as_told(kind: str) -> None:
    ours, theirs = ours_and_theirs(kind)
    parts = {"bos_token": "<b>", "eos_token": "<e>"}
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens(parts)
        tokenizer.add_bos_token = tokenizer.add_eos_token = False
    for begins, ends in itertools.product((True, False), repeat=2):
        for tokenizer in (ours, theirs):
            tokenizer.add_bos_token, tokenizer.add_eos_token = begins, ends
        assert (ours.add_bos_token, ours.add_eos_token) == (begins, ends)
        for texts in ((TEXTS,), (TEXTS, TEXTS[::-1])):
            found = outcome(lambda: ours(*texts, **EVERYTHING))  # noqa: B023
            assert found == outcome(lambda: theirs(*texts, **EVERYTHING))  # noqa: B023
    ours.eos_token = None
    with pytest.raises(ValueError, match="add_eos_token: the tokenizer has no eos_token"):
        ours.add_eos_token = True


def test_padding_is_of_no_text_where_nothing_is_put_around_one() -> None:
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<pad>": 2}, unk_token="a"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    ours = Tokenizer(made, special_tokens={"pad_token": "<pad>"})
    for texts in ((["a b", "b"],), (["a", "b b"], ["b b", "a"])):
        found = outcome(lambda: ours(*texts, padding=True, **EVERYTHING))  # noqa: B023
        assert found == outcome(lambda: theirs(*texts, padding=True, **EVERYTHING))  # noqa: B023
    assert ours(["a b", "b"], padding=True).sequence_ids(1) == [0, None]


def test_calls_of_several_threads_do_not_meet() -> None:
    ours, theirs = ours_and_theirs("wordpiece")
    texts = [*TEXTS, *random_texts(5, 60)]
    plain, cut = [theirs(text)["input_ids"] for text in texts], {}
    for length in (5, 9):
        cut[length] = theirs(texts, truncation=True, max_length=length, padding="max_length")["input_ids"]
    failures: list[Any] = []

    def work(length: int | None) -> None:
        for _ in range(15):
            options = {} if length is None else {"max_length": length, "padding": "max_length"}
            found = ours(texts, truncation=length is not None, **options)["input_ids"]
            if found != (plain if length is None else cut[length]) or ours.encode_batch(texts) != plain:
                failures.append(length)

    threads = [threading.Thread(target=work, args=(length,)) for length in (None, 5, 9, None, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_lengths_for_the_backend_are_a_view_of_it() -> None:
    ours, theirs = ours_and_theirs("wordpiece")
    options = (PaddingStrategy.MAX_LENGTH, TruncationStrategy.LONGEST_FIRST, 16, 2, 8, "left")
    ours.set_truncation_and_padding(*options)
    theirs.set_truncation_and_padding(*options)
    made, expected = (tokenizer.backend_tokenizer.encode_batch(TEXTS) for tokenizer in (ours, theirs))
    assert [row.ids for row in made] == [row.ids for row in expected]
    before = ours.encode_batch(TEXTS)
    assert before == [ours.backend.encode(text).ids for text in TEXTS]
    assert max(map(len, before)) > 16
    ours.set_truncation_and_padding(PaddingStrategy.DO_NOT_PAD, TruncationStrategy.DO_NOT_TRUNCATE, None)
    assert ours.backend_tokenizer is ours.backend


def test_views_follow_added_tokens_and_copies_forget_them() -> None:
    ours, theirs = ours_and_theirs("bpe")
    cut = {"truncation": True, "max_length": 6}
    ours("a<new>b", **cut)
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens(["<new>", "x"]) == 2
    assert ours("a<new>b", **cut)["input_ids"] == theirs("a<new>b", **cut)["input_ids"]
    shared = copy.copy(ours)
    assert shared.special_ids == ours.special_ids
    for tokenizer in (ours, theirs):
        assert tokenizer.add_tokens("<newer>", special_tokens=True) == 1
    assert shared.token_to_id("<newer>") in shared.special_ids  # both use one backend
    assert shared("<newer>b", **cut)["input_ids"] == theirs("<newer>b", **cut)["input_ids"]
    shared.pad_token = "<new>"
    assert ours.pad_token == theirs.pad_token
    again = pickle.loads(pickle.dumps(ours))
    assert again("a<new>b", **cut)["input_ids"] == ours("a<new>b", **cut)["input_ids"]
    assert again.files() == ours.files()
    for length in range(6, 40):  # more than are kept
        assert (
            ours(TEXTS[7], truncation=True, max_length=length)["input_ids"] == ours.encode(TEXTS[7])[:length]
        )
