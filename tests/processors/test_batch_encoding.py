"""The result of a call: columns and the way from tokens to words and characters, as in the reference."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from processors.tokenizers.batch_encoding import BatchEncoding, CharSpan, TokenSpan
from tests.processors.trained import KINDS, TEXTS, ours_and_theirs, random_texts

METHODS = ("char_to_token", "char_to_word", "word_to_tokens", "word_to_chars", "token_to_chars")


def _found(batch: Any, method: str, *place: int) -> Any:
    try:
        return getattr(batch, method)(*place)
    except (TypeError, IndexError):  # the reference unpacks None
        return "nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_alignment_equals_the_reference(kind: str) -> None:
    ours, theirs = ours_and_theirs(kind)
    seconds = [*TEXTS[::-1], *random_texts(6, 6)]
    texts = [*TEXTS, *random_texts(7, 6)]
    for pair in (None, seconds):
        one, two = ours(texts, pair, padding=True), theirs(texts, pair, padding=True)
        assert one.is_fast
        assert one.n_sequences == two.n_sequences == (1 if pair is None else 2)
        for row, text in enumerate(texts):
            assert one.tokens(row) == two.tokens(row) == one[row].tokens
            assert one.word_ids(row) == two.word_ids(row)
            assert one.sequence_ids(row) == two.sequence_ids(row)
            for token in range(len(one.tokens(row))):
                for method in ("token_to_sequence", "token_to_word", "token_to_chars"):
                    assert _found(one, method, row, token) == _found(two, method, row, token)
            for index in range(len(text)):
                for method in METHODS[:4]:
                    for sequence in (0, 1):
                        place = (row, index, sequence)
                        assert _found(one, method, *place) == _found(two, method, *place), (method, place)


def test_one_row_needs_no_number_and_negative_ones_count_from_the_end() -> None:
    ours, _ = ours_and_theirs("wordpiece")
    one = ours("The quick fox", "jumps over it")
    last = len(one.tokens()) - 1
    assert one.token_to_word(1) == one.token_to_word(0, 1) == 0
    assert one.token_to_sequence(-2) == one.token_to_sequence(0, last - 1) == 1
    assert one.token_to_chars(-2) == one.token_to_chars(last - 1)
    assert isinstance(one.token_to_chars(1), CharSpan)
    assert one.token_to_chars(0) is None
    assert isinstance(one.word_to_tokens(0), TokenSpan)
    assert one.word_to_tokens(-1, sequence_index=1) == one.word_to_tokens(0, 2, 1)
    assert one.word_to_chars(-1) == one.word_to_chars(0, 2) == CharSpan(10, 13)
    assert one.word_to_tokens(9) is None
    with pytest.raises(IndexError, match="no word 9"):
        one.word_to_chars(9)
    start, end = one.word_to_chars(1)
    assert "The quick fox"[start:end] == "quick"
    assert one.char_to_word(start) == 1
    assert one.char_to_token(start) == one.word_to_tokens(1).start
    assert one.char_to_token(3) is None  # white space


def test_columns_are_attributes_and_rows_are_slices() -> None:
    ours, theirs = ours_and_theirs("bpe")
    batch, expected = ours(TEXTS[:3], padding=True), theirs(TEXTS[:3], padding=True)
    assert batch.input_ids is batch["input_ids"]
    assert list(batch) == list(expected)
    assert dict(batch) == dict(expected)
    assert [row.ids for row in batch[1:]] == [row.ids for row in expected[1:]]
    with pytest.raises(AttributeError, match="no attribute or column 'labels'"):
        _ = batch.labels
    with pytest.raises(KeyError):
        batch["labels"]
    bare = BatchEncoding({"input_ids": [[1], [2], [3]]})
    assert bare[1:] == {"input_ids": [[2], [3]]} == transformers.BatchEncoding(bare.data)[1:]
    assert not bare.is_fast
    assert bare.encodings is bare.n_sequences is None
    with pytest.raises(KeyError, match="only where the batch was made from text"):
        bare[0]
    for method in ("tokens", "word_ids", "sequence_ids", *METHODS):
        with pytest.raises(ValueError, match="did not come from text"):
            getattr(bare, method)(0)
    again = pickle.loads(pickle.dumps(batch))
    assert again.data == batch.data
    assert again.tokens(1) == batch.tokens(1)
    assert BatchEncoding({"a": [1]}, batch.encodings[0]).tokens() == batch.tokens()


@pytest.mark.parametrize(
    "column",
    [
        [1, 2],
        [[1, 2], [3, 4]],
        [],
        [[]],
        [[1], [2, 3]],
        [np.arange(2), np.arange(2)],
        [0.5],
        [True],
        "ab",
        [["a"]],
    ],
)
@pytest.mark.parametrize("axis", [False, True])
@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors_equal_the_reference(kind: str, axis: bool, column: Any) -> None:
    results: list[Any] = []
    for made in (BatchEncoding, transformers.BatchEncoding):
        try:
            found = made({"x": column}, tensor_type=kind, prepend_batch_axis=axis)["x"]
            rows = [row.tolist() for row in found] if found.dtype == object else found.tolist()
            results.append((type(found), found.dtype, tuple(found.shape), rows))
        except ValueError:
            results.append("refused")
    assert results[0] == results[1]


def test_to_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    batch = BatchEncoding({"x": [[1]], "text": "a"}).convert_to_tensors(None)
    batch["x"] = torch.ones(1)
    for device in ("meta", torch.device("meta")):
        assert batch.to(device, non_blocking=True) is batch
        assert batch["x"].device.type == "meta"
    assert batch["text"] == "a"
    batch.to(torch.float16)
    assert batch["x"].dtype == torch.float32
    assert "can be sent, not cast" in capsys.readouterr().err
    with pytest.raises(ValueError, match="one of pt, np would do"):
        batch.convert_to_tensors("jax")
    kept = torch.ones(2)
    assert BatchEncoding({"x": kept}, tensor_type="pt")["x"] is kept
    assert BatchEncoding({"x": [kept, kept]}, tensor_type="pt")["x"].shape == (2, 2)
