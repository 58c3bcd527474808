"""Data sets of users: their rows, columns and lengths, and streams over them that repeat exactly."""

from __future__ import annotations

import random
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification, Trainer
from transformers.utils.generic import find_labels as reference_labels

from conf.errors import ConfigError, DataError
from models import LlamaConfig, LlamaForCausalLM
from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.datasets import (
    DatasetRows,
    columns_of,
    find_labels,
    lengths_of,
    signature_columns,
    unused,
)
from trainer.data.loading import SilentBatch, seeded, silenced

ROWS = [{"input_ids": [n] * (n % 5 + 1), "labels": n, "text": f"row {n}"} for n in range(23)]


class Torch(torch.utils.data.Dataset):
    """Rows as a torch data set, some of them bad in their own ways."""

    def __init__(self, bad: dict[int, Any] | None = None):
        self.bad = bad or {}

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            if isinstance(self.bad[index], Exception):
                raise self.bad[index]
            return self.bad[index]
        return ROWS[index]


SETS = {"list": ROWS, "torch": Torch(), "datasets": datasets.Dataset.from_list(ROWS)}


@pytest.mark.parametrize("kind", SETS)
def test_rows_columns_and_lengths(kind: str) -> None:
    rows = DatasetRows(SETS[kind], keep={"input_ids", "labels", "other"}, name="eval_dataset")
    assert len(rows) == 23
    assert rows.documents(7) == [{"input_ids": [7] * 3, "labels": 7}]
    assert (rows.numbers(7), rows.places(7)) == ([7], ["eval_dataset[7]"])
    assert DatasetRows(SETS[kind]).documents(3) == [ROWS[3]]
    assert columns_of(SETS[kind]) == ["input_ids", "labels", "text"]
    lengths = lengths_of(SETS[kind])
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [n % 5 + 1 for n in range(23)]
    assert lengths_of(SETS[kind], "labels").tolist() == list(range(23))
    assert lengths_of(SETS[kind], "none", inputs="text").tolist() == [len(row["text"]) for row in ROWS]
    with pytest.raises(
        ConfigError, match=r"neither a column length nor pixels, only \(input_ids, labels, text\)"
    ):
        lengths_of(SETS[kind], inputs="pixels")


def test_columns_nobody_tells() -> None:
    assert columns_of([]) is None
    assert columns_of([(1, 2)]) is None
    assert columns_of(iter(ROWS)) is None
    assert columns_of(datasets.IterableDataset.from_generator(lambda: iter(ROWS))) is None


def test_bad_rows_are_named() -> None:
    rows = DatasetRows(Torch({3: KeyError("no\nsuch"), 4: (1, 2), 5: DataError("a.jsonl:5: bad.")}))
    for row, message in [
        (3, "train_dataset[3]: reading it raised KeyError: 'no\\nsuch'"),
        (
            4,
            "train_dataset[4]: a row is a mapping of column names to values, and a tuple was given; let the ",
        ),
        (5, "a.jsonl:5: bad."),
    ]:
        with pytest.raises(DataError) as caught:
            rows.documents(row)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)
    for wrong in (iter(ROWS), {"train": ROWS}, 5):
        with pytest.raises(ConfigError, match=r"eval_dataset: a .* was given; give a data set with __len__"):
            DatasetRows(wrong, name="eval_dataset")


class Plain(nn.Module):
    def forward(self, input_ids: Any, mask: Any = None, *, labels: Any = None, **more: Any) -> None: ...


class Anything(nn.Module):
    def forward(self, **more: Any) -> None: ...


def tiny_llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    return LlamaForCausalLM(config, device="meta")


def test_columns_follow_from_the_forward() -> None:
    assert signature_columns(Plain()) == {"input_ids", "mask", "labels"}
    assert signature_columns(Anything()) == set()
    own = signature_columns(tiny_llama())
    assert {"input_ids", "attention_mask", "position_ids", "cu_seqlens", "labels"} <= own
    assert not own & {"inputs", "compute", "named", "self"}
    assert find_labels(Plain()) == ["labels"]
    assert find_labels(tiny_llama()) == ["labels"]


@pytest.mark.parametrize("architecture", [BertForQuestionAnswering, BertForSequenceClassification])
def test_labels_and_unused_columns_are_the_references(architecture: Any, tmp_path: Any) -> None:
    tiny = BertConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = architecture(tiny)
    assert find_labels(model) == reference_labels(architecture)
    names = ("input_ids", "text", "label", "label_ids", "labels", "start_positions", "extra", "kwargs")
    data = datasets.Dataset.from_list([dict.fromkeys(names, 1)])
    args = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    left = Trainer(model=model, args=args)._remove_unused_columns(data).column_names
    out = unused(columns_of(data) or [], signature_columns(model), find_labels(model))
    expected = set(left) - {"kwargs"}  # it takes **kwargs for the name of a column
    assert set(names) - set(out) == expected


def test_nothing_left_is_said() -> None:
    assert unused(["x", "label"], {"input_ids"}) == ["x"]
    assert unused(["x", "y"], {"input_ids"}, ["y"]) == ["x"]
    with pytest.raises(ConfigError) as caught:
        unused(["x", "y"], signature_columns(Plain()))
    assert str(caught.value) == (
        "data.remove_unused_columns: none of the columns (x, y) is an argument of the model's forward "
        "(input_ids, labels, mask) or a label; rename the columns, or set it to false for a collator that "
        "uses them."
    )


class Noisy:
    """A data set and a collator that draw from all the global generators."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"n": index, "noise": torch.rand(()).item() + np.random.rand() + random.random()}

    def __call__(self, rows: Any) -> Any:
        n, noise = torch.tensor([r["n"] for r in rows]), torch.tensor([r["noise"] for r in rows])
        batch = {"n": n, "labels": n.clone(), "noise": noise + torch.rand(len(rows)) + random.random()}
        return transformers.BatchEncoding(batch)


def noisy(**options: Any) -> Batches:
    options = {"seed": 3, "per_device_batch_size": 2, "accumulation": 2} | options
    return Batches(DatasetRows(Noisy()), Noisy(), **options)


def said(step: list[dict[str, Any]]) -> list[Any]:
    assert all(type(batch) is dict for batch in step)
    return [{name: values.tolist() for name, values in batch.items()} for batch in step]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_users_draw_is_the_same_in_workers_and_when_resumed(workers: int) -> None:
    unbroken = noisy()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    expected = [said(next(unbroken)) for _ in range(13)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    noises = [noise for step in expected for batch in step for noise in batch["noise"]]
    assert len(set(noises)) == len(noises)  # the second epoch's are others
    resumed = noisy(num_workers=workers)
    resumed.load_state_dict(unbroken.state_dict() | {"step": 4})
    assert [said(next(resumed)) for _ in range(9)] == expected[4:]
    resumed.close()
    assert said(next(noisy(seed=4))) != expected[0]


def test_a_batch_that_is_no_mapping() -> None:
    batches = Batches(DatasetRows(ROWS), lambda rows: tuple(rows), seed=0, per_device_batch_size=2)
    with pytest.raises(DataError, match=r"data_collator: a batch is a mapping .* and a tuple was given"):
        next(batches)


@pytest.mark.parametrize(("silence", "labels"), [(silenced, [-100]), (SilentBatch, [0])])
def test_a_rank_without_rows_keeps_the_others_company_in_silence(silence: Any, labels: list[int]) -> None:
    rows = DatasetRows(datasets.Dataset.from_dict({"n": [0], "noise": [0.5]}))
    ranks = [
        Batches(rows, Noisy(), seed=0, per_device_batch_size=1, rank=r, world_size=2, silence=silence)
        for r in (0, 1)
    ]
    steps = [next(rank) for rank in ranks]
    assert [batch["labels"].tolist() for (batch,) in steps] == [[0], labels]
    assert [isinstance(batch, SilentBatch) for (batch,) in steps] == [False, True]
    assert [rank.places() for rank in ranks] == [["train_dataset[0]"], []]


def test_evaluation_of_users_data_is_the_same_each_time() -> None:
    rows = DatasetRows(Noisy(), name="eval_dataset")
    here = EvaluationBatches(rows, Noisy(), per_device_batch_size=4)
    workers = EvaluationBatches(rows, Noisy(), per_device_batch_size=4, num_workers=2)
    first = said(list(here))
    assert [batch["n"] for batch in first] == [list(range(23))[i : i + 4] for i in range(0, 23, 4)]
    assert said(list(here)) == said(list(workers)) == first
    bad = EvaluationBatches(DatasetRows(Torch({0: (1,)})), Noisy(), per_device_batch_size=2, num_workers=1)
    with pytest.raises(DataError, match=r"train_dataset\[0\]: a row is a mapping"):
        list(bad)


def test_seeded_nests_and_gives_back_after_an_error() -> None:
    before = torch.get_rng_state()
    drawn = []

    def fail() -> None:
        with seeded(5):
            drawn.append(torch.rand(2))
            with seeded(6):
                drawn.append(torch.rand(2))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(5):
        assert torch.equal(torch.rand(2), drawn[0])
