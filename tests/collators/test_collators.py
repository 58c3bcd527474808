"""The collators' exact tensors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch

import collators
from collators import (
    CATALOG,
    DataCollatorForLanguageModeling,
    DataCollatorWithFlattening,
    Flattening,
    LanguageModeling,
)
from collators.default import default_collator
from conf.errors import ConfigError
from conf.plugins import options_of, thing_of
from processors import Tokenizer

TOKENIZER = SimpleNamespace(pad_token_id=9)


def document(ids: list[int], mask: list[int]) -> dict[str, np.ndarray]:
    return {"input_ids": np.array(ids, np.int32), "loss_mask": np.array(mask, np.uint8)}


DOCUMENTS = [document([5, 6, 7], [1, 0, 1]), document([8], [1]), document([3, 4], [0, 1])]


def assert_batch(
    batch: dict[str, torch.Tensor], expected: dict[str, list], int32: tuple[str, ...] = ()
) -> None:
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        dtype = torch.int32 if name in int32 else torch.int64
        assert torch.equal(batch[name], torch.tensor(values, dtype=dtype)), name
        assert batch[name].dtype == dtype


@pytest.mark.parametrize("side", ["right", "left"])
def test_without_a_collator_our_tokenizer_pads_labels_with_what_no_loss_counts(side):
    words = {word: place for place, word in enumerate(["<pad>", "a", "b"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    tokenizer = Tokenizer(backend, special_tokens={"pad_token": "<pad>"}, other_config={"padding_side": side})
    rows = [
        {"input_ids": [1, 2, 1], "labels": [1, 2, 1], "special_tokens_mask": [0, 0, 0], "text": "aba"},
        {"input_ids": [2], "labels": [2], "special_tokens_mask": [0], "text": "b"},
    ]
    batch = default_collator(tokenizer)(rows)
    padded = {
        "input_ids": ([2], [0, 0]),
        "labels": ([2], [-100, -100]),
        "special_tokens_mask": ([0], [1, 1]),
        "attention_mask": ([1], [0, 0]),
    }
    for name, (given, filling) in padded.items():
        expected = given + filling if side == "right" else filling + given
        assert batch[name][1].tolist() == expected, name
    assert "text" not in batch


def test_flattening():
    expected = {
        "input_ids": [[5, 6, 7, 8, 3, 4]],
        "labels": [[-100, -100, 7, -100, -100, 4]],
        "position_ids": [[0, 1, 2, 0, 0, 1]],
        "cu_seqlens": [0, 3, 4, 6],
    }
    assert_batch(DataCollatorWithFlattening()(DOCUMENTS), expected, int32=("cu_seqlens",))
    separated = DataCollatorWithFlattening(Flattening(separator_id=2), tokenizer=TOKENIZER)(DOCUMENTS)
    assert separated["labels"].tolist() == [[2, -100, 7, 2, 2, 4]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 4])
def test_language_modeling(side: str, multiple: int | None):
    options = LanguageModeling(pad_to_multiple_of=multiple, padding_side=side)
    batch = DataCollatorForLanguageModeling(options, tokenizer=TOKENIZER)(DOCUMENTS)
    ids, labels = [[5, 6, 7], [8], [3, 4]], [[-100, -100, 7], [-100], [-100, 4]]

    def padded(rows, fill):
        rows = [(row, [fill] * ((multiple or 3) - len(row))) for row in rows]
        return [row + pad if side == "right" else pad + row for row, pad in rows]

    mask = padded([[1] * len(row) for row in ids], 0)
    assert_batch(batch, {"input_ids": padded(ids, 9), "attention_mask": mask, "labels": padded(labels, -100)})


def test_a_tokenizer_without_padding_token():
    batch = DataCollatorForLanguageModeling(tokenizer=SimpleNamespace(pad_token_id=None))(DOCUMENTS)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0], [3, 4, 0]]


def test_both_hold_the_same_targets():
    random = np.random.default_rng(0)
    documents = [
        document(random.integers(0, 50, n).tolist(), random.integers(0, 2, n).tolist())
        for n in random.integers(1, 30, size=20)
    ]
    flat = DataCollatorWithFlattening()(documents)
    padded = DataCollatorForLanguageModeling(tokenizer=TOKENIZER)(documents)
    kept = padded["attention_mask"].bool()
    assert torch.equal(flat["input_ids"][0], padded["input_ids"][kept])
    assert torch.equal(flat["labels"][0], padded["labels"][kept])


def test_batches_do_not_share_memory_with_the_documents():
    documents = [document([1, 2], [1, 1])]
    for name in documents[0]:
        documents[0][name].flags.writeable = False
    batch = DataCollatorWithFlattening()(documents)
    batch["input_ids"].fill_(0)
    assert documents[0]["input_ids"].tolist() == [1, 2]


@pytest.mark.parametrize("name", CATALOG)
def test_catalog(name: str):
    thing = thing_of(CATALOG, name, "collator")
    made = thing(options_of(CATALOG, name, "collator")(), tokenizer=TOKENIZER)
    assert made(DOCUMENTS)["labels"].dtype == torch.int64
    assert thing.__doc__


def test_options_that_mean_nothing():
    with pytest.raises(ConfigError, match="pad_to_multiple_of: 0 is not"):
        LanguageModeling(pad_to_multiple_of=0)
    with pytest.raises(AttributeError, match="no attribute 'DataCollatorForNothing'"):
        _ = collators.DataCollatorForNothing


def test_options_are_judged_without_torch():
    code = (
        "import sys, collators; from collators import Flattening, LanguageModeling;"
        "Flattening(); LanguageModeling(); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=Path(collators.__file__).parents[1]
        ).returncode
        == 0
    )
