"""Loader options: they decide who makes a batch and when, never which batch it is."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.cache import TokenRows
from trainer.data.iterables import IterableBatches, IterableEvaluationBatches
from trainer.data.loading import Loading, SilentBatch, pinned
from trainer.data.rows import RowSet


class ByWhom:
    """A collator that says which process made the batch."""

    def __call__(self, documents: Any) -> dict[str, Any]:
        ids = [int(document["input_ids"][0]) for document in documents]
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(ids), "process": os.getpid()}


class Samples(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter([{"input_ids": [n]} for n in range(10)])


def batches_over(kind: str, make_rows: Callable[..., TokenRows], **options: Any) -> Any:
    options = {"seed": 1, "per_device_batch_size": 2, "accumulation": 2} | options
    if kind == "rows":
        return Batches(RowSet([make_rows([3] * 10)]), ByWhom(), **options)
    return IterableBatches(Samples(), ByWhom(), **options)


def steps_of(batches: Any, count: int) -> tuple[list[list[list[int]]], list[set[int]]]:
    """The rows of some steps, and who made each step."""
    steps = [next(batches) for _ in range(count)]
    rows = [[batch["input_ids"].tolist() for batch in step] for step in steps]
    return rows, [{batch["process"] for batch in step} for step in steps]


def alive(processes: set[int]) -> bool:
    """Whether any of these is still a child of this process."""
    return bool(processes & {child.pid for child in multiprocessing.active_children()})


@pytest.mark.parametrize("kind", ["rows", "iterable"])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_with_the_epoch_or_live_on(make_rows: Any, kind: str, persistent: bool) -> None:
    expected, here = steps_of(batches_over(kind, make_rows), 9)
    assert here == [{os.getpid()}] * 9
    workers = batches_over(kind, make_rows, num_workers=1, persistent_workers=persistent, prefetch_factor=3)
    found, processes = [], []
    for _ in range(3):
        rows, by_whom = steps_of(workers, 3)
        assert workers.is_epoch_end
        found += rows
        processes.append(set().union(*by_whom))
        assert alive(processes[-1]) == persistent
    workers.close()
    assert not alive(set().union(*processes))
    assert found == expected
    assert len(set().union(*processes)) == (1 if persistent else 3)
    assert os.getpid() not in set().union(*processes)


@pytest.mark.parametrize("kind", ["rows", "iterable"])
def test_workers_that_end_with_the_epoch_resume_in_it(make_rows: Any, kind: str) -> None:
    unbroken = batches_over(kind, make_rows)
    steps_of(unbroken, 4)
    resumed = batches_over(kind, make_rows, num_workers=1)
    resumed.load_state_dict(unbroken.state_dict())
    rows, by_whom = steps_of(resumed, 2)
    assert rows == steps_of(unbroken, 2)[0]
    assert resumed.is_epoch_end
    assert not alive(set().union(*by_whom))


@pytest.mark.parametrize("kind", ["rows", "iterable"])
def test_evaluation_ahead_of_time(make_rows: Any, kind: str) -> None:
    def passes(**options: Any) -> list[list[Any]]:
        options = {"per_device_batch_size": 3} | options
        if kind == "rows":
            batches: Any = EvaluationBatches(RowSet([make_rows([3] * 10)]), ByWhom(), **options)
        else:
            batches = IterableEvaluationBatches(Samples(), ByWhom(), **options)
        return [list(batches) for _ in (0, 1)]

    rows = [[batch["input_ids"].tolist() for batch in one] for one in passes()]
    assert rows == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]] * 2
    ahead = passes(num_workers=1, prefetch_factor=1, pin_memory=True)
    assert [[batch["input_ids"].tolist() for batch in one] for one in ahead] == rows
    processes = {batch["process"] for one in ahead for batch in one}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not alive(processes)


def test_nothing_is_pinned_without_an_accelerator(make_rows: Any, recwarn: Any) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    assert not Loading(pin_memory=True).pins()
    batches = batches_over("rows", make_rows, pin_memory=True)
    assert not next(batches)[0]["input_ids"].is_pinned()
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["rows", "iterable"])
def test_batches_are_pinned_where_there_is_one(make_rows: Any, kind: str, monkeypatch: Any) -> None:
    expected, _ = steps_of(batches_over(kind, make_rows), 3)
    taken = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        taken.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    assert steps_of(batches_over(kind, make_rows), 3)[0] == expected
    assert not taken
    assert steps_of(batches_over(kind, make_rows, pin_memory=True), 3)[0] == expected
    assert len(taken) >= 2 * 5
    silent = pinned(SilentBatch(labels=torch.zeros(2), name="x"))
    assert isinstance(silent, SilentBatch)
    assert (silent["labels"].tolist(), silent["name"]) == ([0, 0], "x")


def test_workers_are_asked_to_pin_and_to_prefetch(make_rows: Any, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}
    whole = torch.utils.data.DataLoader.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        asked.update(options)
        whole(self, *args, **(options | {"pin_memory": False}))

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", init)
    batches = batches_over("rows", make_rows, num_workers=1, prefetch_factor=5, pin_memory=True)
    next(batches)
    batches.close()
    assert (asked["pin_memory"], asked["prefetch_factor"], asked["num_workers"]) == (True, 5, 1)
