"""Predictions kept over batches and ranks, against the reference's own containers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import trainer_pt_utils, trainer_utils

from conf.errors import ConfigError, DataError
from trainer.predictions import (
    BestRun,
    Collected,
    EvalLoopOutput,
    EvalPrediction,
    PredictionOutput,
    TrainOutput,
    concatenated,
    to_host,
)

ALONE: Any = SimpleNamespace(world_size=1, rank=0, gather=lambda value: [value])


def batch(rows: int, width: int, seed: int) -> dict[str, Any]:
    """Scores nested as a model with several outputs gives them, and labels of the same width."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random)

    return {
        "predictions": (draw(rows, width, 5), {"pooled": draw(rows, 3), "one": draw(rows)}, [draw(rows, 2)]),
        "label_ids": torch.randint(0, 5, (rows, width), generator=random),
    }


BATCHES = [batch(3, 4, 0), batch(3, 7, 1), batch(3, 2, 2), batch(1, 7, 3)]


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, tuple | list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("steps", [None, 1, 2, 3])
@pytest.mark.parametrize("concat", [True, False])
def test_batches_are_kept_as_the_reference_keeps_them(steps: int | None, concat: bool) -> None:
    ours = Collected(accumulation_steps=steps)
    theirs = {name: trainer_pt_utils.EvalLoopContainer(concat) for name in BATCHES[0]}
    for values in BATCHES:
        ours.add(values)
        for name, container in theirs.items():
            container.add(values[name])
    got = ours.gathered(ALONE, concat=concat)
    for name, container in theirs.items():
        assert_same(got[name], container.get_arrays())


def test_concatenation_pads_as_the_reference_does() -> None:
    theirs = to_host(BATCHES[0])
    for values in BATCHES[1:]:
        theirs = trainer_pt_utils.nested_concat(theirs, to_host(values))
    whole = concatenated([to_host(values) for values in BATCHES])
    assert_same(whole, theirs)
    assert whole["label_ids"].shape == (10, 7)
    assert (whole["label_ids"][6, 2:] == -100).all()


def test_batches_stay_on_the_device_until_as_many_are_there() -> None:
    collected = Collected(accumulation_steps=2)
    kinds = []
    for values in BATCHES[:3]:
        collected.add(values)
        kinds.append([type(kept["label_ids"]) for kept in collected._batches])
    tensor, array = torch.Tensor, np.ndarray
    assert kinds == [[tensor], [array, array], [array, array, tensor]]


def test_numbers_without_a_dimension_are_one_row_and_bfloat16_becomes_float32() -> None:
    whole = concatenated([to_host(torch.tensor(1.5, dtype=torch.bfloat16)), to_host(torch.tensor([2.0]))])
    assert whole.dtype == np.float32
    assert whole.tolist() == [1.5, 2.0]


def ranks_of(shares: list[list[Any]], rank: int) -> Any:
    """A rank among others that hold ``shares``."""

    def gather(own: Any) -> list[Any]:
        values = [to_host(share, objects=True) for share in shares]
        values[rank] = own
        return values

    return SimpleNamespace(world_size=len(shares), rank=rank, gather=gather)


def named(values: Any) -> dict[str, Any]:
    return {"predictions": values, "label_ids": None}


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_are_put_together_in_the_order_of_the_data(rank: int) -> None:
    """Rows 0-10 in micro-batches of 2 a rank: the last is short, and the last rank has none of it."""
    rows = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    shares = [[named(torch.tensor(rows[i])) for i in own] for own in ([0, 3], [1, 4], [2, 5])]
    shares = [shares[0], shares[1], shares[2][:1]]
    kept = Collected()
    for values in shares[rank]:
        kept.add(values)
    whole = kept.gathered(ranks_of(shares, rank))
    assert whole["predictions"].tolist() == list(range(10))
    assert whole["label_ids"] is None
    lists = kept.gathered(ranks_of(shares, rank), concat=False)
    assert [part.tolist() for part in lists["predictions"]] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]
    assert lists["label_ids"] is None


def test_a_rank_without_any_batch_gets_what_the_others_have() -> None:
    shares = [[named(torch.tensor([1, 2]))], []]
    assert Collected().gathered(ranks_of(shares, 1))["predictions"].tolist() == [1, 2]
    assert Collected().gathered(ALONE) == {}


def test_objects_are_kept_only_when_asked_for() -> None:
    plain = Collected()
    plain.add(named(["a", "b"]))
    with pytest.raises(
        ConfigError, match=r"evaluation\.eval_use_gather_object: the predictions .* hold a str"
    ):
        plain.gathered(ALONE)
    first, second = [{"boxes": torch.ones(2, 4)}, {"boxes": torch.ones(1, 4)}], [{"boxes": torch.ones(3, 4)}]
    kept = Collected(objects=True)
    kept.add(named(first))
    whole = kept.gathered(ranks_of([[named(first)], [named(second)]], 0))["predictions"]
    assert [row["boxes"].shape for row in whole] == [(2, 4), (1, 4), (3, 4)]
    assert all(isinstance(row["boxes"], np.ndarray) for row in whole)
    words = Collected(objects=True)
    for word in ("one", "two"):
        words.add(named(word))
    assert words.gathered(ALONE)["predictions"] == ["one", "two"]


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (torch.ones(1, 2, 3), torch.ones(1, 2, 4), r"predictions: batches of shapes .*concat_batches=false"),
        (torch.ones(1, 2), torch.ones(1), "predictions: batches of shapes"),
        (torch.ones(1), None, "predictions: some batches give ndarray and others nothing"),
        ((torch.ones(1),), (torch.ones(1), torch.ones(1)), "different numbers of values, 1 and 2; if each"),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, r"different names, \['a'\] and \['b'\]\.$"),
    ],
)
def test_batches_that_do_not_fit_together_are_an_error(first: Any, second: Any, text: str) -> None:
    kept = Collected()
    kept.add(named(first))
    kept.add(named(second))
    with pytest.raises(DataError, match=text):
        kept.gathered(ALONE)


@pytest.mark.parametrize(
    "extra", [{}, {"inputs": "i"}, {"losses": "l"}, {"inputs": "i", "losses": "l"}], ids=lambda e: "+".join(e)
)
def test_what_compute_metrics_is_given_unpacks_as_the_references(extra: dict[str, str]) -> None:
    ours, theirs = EvalPrediction("p", "y", **extra), trainer_utils.EvalPrediction("p", "y", **extra)
    assert tuple(ours) == tuple(theirs)
    assert [ours[i] for i in range(len(theirs.elements))] == list(theirs.elements)
    with pytest.raises(IndexError):
        ours[len(theirs.elements)]
    predictions, labels, *_ = ours
    assert (predictions, labels) == (ours.predictions, ours.label_ids)


@pytest.mark.parametrize("ours", [EvalLoopOutput, PredictionOutput, TrainOutput, BestRun])
def test_named_tuples_have_the_references_fields(ours: Any) -> None:
    theirs = getattr(trainer_utils, ours.__name__)
    assert ours._fields == theirs._fields
    assert ours._field_defaults == theirs._field_defaults
