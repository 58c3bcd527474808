"""Padding of rows that did not come from a call, and cutting of ids, against the reference."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers.tokenization_python import PythonBackend

from processors.tokenizers.lengths import PaddingStrategy, TruncationStrategy
from tests.processors.trained import ours_and_theirs, outcome

ROWS = [
    {"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 1], "special_tokens_mask": [1, 0, 1], "label": 0},
    {"input_ids": [8], "token_type_ids": [0], "special_tokens_mask": [0], "label": 1},
    {"input_ids": [], "token_type_ids": [], "special_tokens_mask": [], "label": 1},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
IDS = [{"input_ids": row["input_ids"]} for row in ROWS[:2]]
GIVEN: dict[str, Any] = {
    "rows": ROWS,
    "columns": COLUMNS,
    "one": {"input_ids": [4, 5], "attention_mask": [1, 0]},
    "masked": [{"input_ids": [1, 2], "attention_mask": [0, 1]}, {"input_ids": [3], "attention_mask": [1]}],
    "tensors": [{"input_ids": torch.tensor(row["input_ids"])} for row in IDS],
    "arrays": [{"input_ids": np.array(row["input_ids"])} for row in IDS],
    "one tensor": {"input_ids": torch.tensor([[1, 2], [3, 4]]), "x": torch.ones(2)},
    "labels": [{**row, "labels": row["input_ids"]} for row in IDS],
    "square masks": [{"input_ids": [1, 2], "attention_mask": np.ones((2, 2))}] * 2,
    "nothing": {"input_ids": []},
    "no tokens": [{"label": 1}],
    "texts": [{"input_ids": ["a"]}],
    "uneven": {"input_ids": [[1], [2]], "label": [1]},
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": "max_length", "max_length": 6},
    {"padding": PaddingStrategy.LONGEST, "pad_to_multiple_of": 4, "padding_side": "left"},
    {"padding": False},
    {"return_tensors": "pt", "pad_to_multiple_of": 2},
    {"return_attention_mask": False, "return_tensors": "np"},
    {"padding": "max_length"},
]


@pytest.mark.parametrize("given", GIVEN)
def test_rows_are_padded_as_in_the_reference(given: str) -> None:
    ours, theirs = ours_and_theirs("wordpiece", padding_side="right", model_max_length=7)
    rows = GIVEN[given]
    for options in OPTIONS:
        before = repr(rows)
        found = outcome(lambda: ours.pad(rows, **options))  # noqa: B023
        assert repr(rows) == before  # the reference writes into what it is given
        copied = [dict(row) for row in rows] if isinstance(rows, list) else dict(rows)
        try:
            expected = outcome(lambda: theirs.pad(copied, **options))  # noqa: B023
        except AssertionError:
            expected = ValueError
        if given == "nothing":  # the reference gives its argument back as it was
            assert found["columns"] == {"input_ids": []}
            assert expected == {"input_ids": []}
        else:
            assert found == expected, options


def test_what_cannot_be_padded_is_said() -> None:
    ours, _ = ours_and_theirs("bpe")
    for rows, says in (
        ([{"label": 1}], r"the rows have no input_ids \(there are label\)"),
        ([], "there are no rows"),
        ([{"input_ids": ["a"]}], "a token of type str was given"),
        ({"input_ids": [[1], [2]], "label": [1]}, "the columns label have another number of rows than 2"),
    ):
        with pytest.raises(ValueError, match=says):
            ours.pad(rows)
    with pytest.raises(ValueError, match="padding_side: 'top' was given"):
        ours.pad(IDS, padding_side="top")
    ours.pad_token = None
    with pytest.raises(ValueError, match="pad_token is not set"):
        ours.pad(IDS)
    assert ours.pad(IDS, padding=False)["attention_mask"] == [[1, 1, 1], [1]]


class _WithPattern(PythonBackend):
    """The reference's tokenizer in Python, with BERT's layout, for what its fast ones lack."""

    vocab_size = 300

    def get_vocab(self) -> dict[str, int]:
        return {}

    def _convert_token_to_id(self, token: str) -> int:
        return {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}[token]

    def _convert_id_to_token(self, index: int) -> str:
        return str(index)


def _pattern(side: str) -> Any:
    parts = {f"{part}_token": f"[{part.upper()}]" for part in ("pad", "unk", "cls", "sep", "mask")}
    theirs = _WithPattern(
        special_tokens_pattern="cls_sep",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        truncation_side=side,
        **parts,
    )
    theirs._added_tokens_encoder = {}
    return theirs


@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_are_prepared_and_cut_as_in_the_reference(side: str) -> None:
    ours, _ = ours_and_theirs("wordpiece", truncation_side=side)
    theirs = _pattern(side)
    assert (theirs.cls_token_id, theirs.sep_token_id, theirs.pad_token_id) == (2, 3, 0)
    rng = random.Random(side)
    for strategy, tensors in itertools.product([*TruncationStrategy, True, False], (None, "pt")):
        for _ in range(12):
            ids = [rng.randint(5, 99) for _ in range(rng.randint(6, 12))]
            pair = rng.choice([None, [rng.randint(5, 99) for _ in range(rng.randint(6, 12))]])
            options = {
                "truncation": strategy,
                "max_length": rng.randint(10, 16),
                "stride": rng.randint(0, 3),
                "padding": rng.choice([False, "max_length"]),
                "return_overflowing_tokens": rng.random() < 0.7,
                "return_special_tokens_mask": True,
                "return_length": True,
                "add_special_tokens": rng.random() < 0.8,
                "return_tensors": tensors,
                "prepend_batch_axis": tensors is not None,
            }
            found = outcome(lambda: ours.prepare_for_model(ids, pair, **options))  # noqa: B023
            expected = outcome(lambda: theirs.prepare_for_model(ids, pair, **options))  # noqa: B023
            assert _in_order(found) == _in_order(expected), (ids, pair, options)
            remove = rng.randint(0, 5)
            cut = (ids, pair, remove, strategy if isinstance(strategy, str) else "only_first", 2)
            assert list(ours.truncate_sequences(*cut)) == list(theirs.truncate_sequences(*cut))
    with pytest.raises(ValueError, match="truncation_strategy: 'middle' was given"):
        ours.truncate_sequences([1], None, 1, "middle")
    with pytest.raises(ValueError, match="one sequence"):
        ours.get_special_tokens_mask([1], [2], already_has_special_tokens=True)


def _in_order(found: Any) -> Any:
    """Windows that were cut off are made before the length in the reference, and not padded."""
    return sorted(found["columns"].items()) if isinstance(found, dict) else found
