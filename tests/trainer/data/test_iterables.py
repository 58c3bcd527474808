"""Streams over data sets that can only be iterated: the contract of epochs, ranks, and exact resuming."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset
from transformers.trainer_pt_utils import IterableDatasetShard

from conf.errors import CheckpointError, ConfigError, DataError
from trainer.data.iterables import IterableBatches, IterableEvaluationBatches
from trainer.data.loading import SilentBatch


class Counting(IterableDataset):
    """Samples 0 to n - 1 in their order."""

    def __init__(self, count: int = 21):
        self.count = count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for n in self.order():
            yield {"n": n, "noise": random.random() + np.random.rand(), "text": f"row {n}"}

    def order(self) -> list[int]:
        return list(range(self.count))


class Sized(Counting):
    def __len__(self) -> int:
        return self.count


class Generated(Counting):
    """Shuffled by its generator, which the trainer seeds."""

    def __init__(self, count: int = 21):
        super().__init__(count)
        self.generator = torch.Generator()

    def order(self) -> list[int]:
        return torch.randperm(self.count, generator=self.generator).tolist()


class Told(Counting):
    """Shuffled by the epoch it was told; its generator is its own affair."""

    epoch = -1

    def __init__(self, count: int = 21):
        super().__init__(count)
        self.generator = torch.Generator().manual_seed(7)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> list[int]:
        assert self.generator.initial_seed() == 7
        return np.random.default_rng(self.epoch).permutation(self.count).tolist()


class Global(Counting):
    """Shuffled by torch's global generator."""

    def order(self) -> list[int]:
        return torch.randperm(self.count).tolist()


def hub_style(count: int = 21) -> datasets.IterableDataset:
    rows = [{"n": n, "noise": float(n), "text": f"row {n}"} for n in range(count)]
    return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3).shuffle(seed=2, buffer_size=8)


KINDS: dict[str, Any] = {
    "counting": Counting,
    "generator": Generated,
    "set_epoch": Told,
    "global": Global,
    "datasets": hub_style,
}


def collate(samples: Any) -> dict[str, torch.Tensor]:
    """Numbers, what the data set drew and what the collator draws."""
    n = torch.tensor([sample["n"] for sample in samples])
    noise = torch.tensor([sample["noise"] for sample in samples], dtype=torch.float64)
    return {"n": n, "noise": noise, "drawn": torch.rand(len(samples)), "labels": n.clone()}


def stream(dataset: Any, per_device: int = 2, **options: Any) -> IterableBatches:
    options = {"seed": 3, "collator": collate} | options
    return IterableBatches(dataset, per_device_batch_size=per_device, **options)


def numbers(step: list[dict[str, Any]]) -> list[int]:
    return [n for batch in step if (batch["labels"] != -100).any() for n in batch["n"].tolist()]


def everything(step: list[dict[str, Any]]) -> list[Any]:
    return [{name: values.tolist() for name, values in batch.items()} for batch in step]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_has_the_same_samples_however_it_is_split(kind: str) -> None:
    def steps(per_device: int, accumulation: int, world_size: int) -> list[list[int]]:
        options = {"accumulation": accumulation, "world_size": world_size}
        ranks = [stream(KINDS[kind](), per_device, rank=rank, **options) for rank in range(world_size)]
        return [sorted(n for rank in ranks for n in numbers(next(rank))) for _ in range(7)]

    whole = steps(8, 1, 1)
    assert [len(step) for step in whole] == [8, 8, 5, 8, 8, 5, 8]
    assert sorted(n for step in whole[:3] for n in step) == list(range(21))
    for split in [(4, 2, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2), (2, 1, 4)]:
        assert steps(*split) == whole
    if kind != "counting":
        assert whole[:3] != whole[3:6]


@pytest.mark.parametrize("kind", ["counting", "generator", "set_epoch"])
def test_ranks_get_what_the_reference_gives_them(kind: str) -> None:
    for rank in (0, 1):
        shard = IterableDatasetShard(KINDS[kind](), 2, num_processes=2, process_index=rank, seed=3)
        shard.set_epoch(1)
        batches = stream(KINDS[kind](), rank=rank, world_size=2)
        batches.load_state_dict(batches.state_dict() | {"cursor": {"epoch": 1, "used": 0}})
        expected = [sample["n"] for sample in shard][:10]  # the reference fills up the last micro-batch
        assert [n for _ in range(5) for n in numbers(next(batches))] == expected


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_resuming_at_every_position_equals_never_stopping(kind: str, workers: int) -> None:
    unbroken = stream(KINDS[kind](), accumulation=2)
    before = torch.get_rng_state(), random.getstate()
    expected, states = [], []
    for _ in range(14):
        states.append(json.loads(json.dumps(unbroken.state_dict())))
        step = everything(next(unbroken))
        expected.append((step, unbroken.is_epoch_end, unbroken.places(), unbroken.epoch, unbroken.step))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert [end for _, end, _, _, _ in expected].count(True) == 2
    for position in range(0, 13, 1 if workers == 0 else 5):
        resumed = stream(KINDS[kind](), accumulation=2, num_workers=workers)
        resumed.load_state_dict(states[position])
        assert resumed.is_epoch_end == (position > 0 and expected[position - 1][1])
        for number in (position, position + 1):
            found = everything(next(resumed))
            assert (found, resumed.is_epoch_end, resumed.places(), resumed.epoch, resumed.step) == expected[
                number
            ]
        resumed.close()


def test_epochs_places_and_what_resuming_costs() -> None:
    batches = stream(Sized(), 4, rank=1, world_size=2)
    assert (batches.steps_per_epoch, batches.resume_note) == (3, None)
    next(batches)
    assert batches.places() == [f"train_dataset, sample {n} of epoch 0" for n in range(4, 8)]
    assert (batches.epoch, batches.is_epoch_end, batches.step) == (1 / 3, False, 1)
    assert batches.resume_note == (
        "train_dataset cannot be entered in the middle: 8 samples of epoch 0 are read again and skipped."
    )
    batches.skip_epoch()
    assert (batches.epoch, batches.is_epoch_end, batches.resume_note) == (1.0, True, None)
    next(batches)
    assert batches.places()[0] == "train_dataset, sample 4 of epoch 1"
    unsized = stream(Counting(), 8)
    assert unsized.steps_per_epoch is None
    assert [(next(unsized), unsized.epoch)[1] for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_an_incomplete_last_step_can_be_dropped() -> None:
    batches = stream(Sized(), 8, drop_last=True)
    assert batches.steps_per_epoch == 2
    assert [(len(numbers(next(batches))), batches.is_epoch_end) for _ in range(4)] == [
        (8, False),
        (8, True),
    ] * 2
    with pytest.raises(
        DataError, match="train_dataset: epoch 0 does not fill one step of 32, and an incompl"
    ):
        next(stream(Sized(), 32, drop_last=True))


@pytest.mark.parametrize("rows", [5, 6, 7, 8])
def test_ranks_make_equally_many_passes_in_a_short_last_step(rows: int) -> None:
    ranks = [stream(Counting(rows), 2, world_size=2, rank=rank) for rank in (0, 1)]
    for rank in ranks:
        next(rank)
    steps = [next(rank) for rank in ranks]
    assert [len(step) for step in steps] == [1, 1]
    assert numbers(steps[0]) + numbers(steps[1]) == list(range(4, rows))
    assert [len(rank.places()) for rank in ranks] == [min(2, rows - 4), max(0, rows - 6)]
    assert isinstance(steps[1][0], SilentBatch) == (rows <= 6)


def test_only_wanted_columns_are_kept_and_random_collators_get_a_key() -> None:
    seen: list[Any] = []

    class Random:
        random = True

        def __call__(self, samples: Any) -> dict[str, Any]:
            seen.extend(samples)
            return {"labels": torch.zeros(1)}

    batches = stream(Counting(), 4, collator=Random(), keep={"n"}, accumulation=2)
    for _ in range(6):
        next(batches)
    assert all(sample.keys() == {"n", "sample_key"} for sample in seen)
    assert len({sample["sample_key"] for sample in seen}) == 42
    again = stream(Counting(), 1, collator=Random(), accumulation=8)
    keys = [sample["sample_key"] for sample in seen]
    seen.clear()
    for _ in range(6):
        next(again)
    assert [sample["sample_key"] for sample in seen] == keys


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_given_again_in_smaller_micro_batches(workers: int) -> None:
    unbroken = [numbers(step) for step in islice(stream(Generated(), 8), 7)]
    batches = stream(Generated(), 8, num_workers=workers)
    for _ in range(3):
        next(batches)
    batches.step_back()
    assert (batches.step, batches.is_epoch_end) == (2, False)
    with pytest.raises(AssertionError, match="no step was given out"):
        batches.step_back()
    batches.resplit(2, 4)
    step = next(batches)
    assert [len(batch["n"]) for batch in step] == [2, 2, 1]
    assert [numbers(step), *(numbers(next(batches)) for _ in range(4))] == unbroken[2:]
    batches.close()


def test_without_skipping_data_begin_with_their_epoch_again() -> None:
    batches = stream(Generated(), 8)
    expected, states = [], []
    for _ in range(6):
        states.append(batches.state_dict())
        expected.append(numbers(next(batches)))
    for position, first in [(0, 0), (2, 0), (3, 3), (5, 3)]:
        resumed = stream(Generated(), 8)
        resumed.load_state_dict(states[position], skip=False)
        assert (resumed.is_epoch_end, resumed.resume_note) == (position > 0, None)
        assert [numbers(next(resumed)) for _ in range(6 - first)] == expected[first:]
        assert resumed.step == position + 6 - first
        later = stream(Generated(), 8)
        later.load_state_dict(resumed.state_dict())
        assert numbers(next(later)) == numbers(next(resumed))


class Failing(Counting):
    def __init__(self, bad: Any):
        super().__init__()
        self.bad = bad

    def __iter__(self) -> Iterator[Any]:
        yield from ({"n": n, "noise": 0.0} for n in range(5))
        if isinstance(self.bad, Exception):
            raise self.bad
        yield self.bad


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            ValueError("broken\npipe"),
            "train_dataset, sample 5 of epoch 0: reading it raised ValueError: broken",
        ),
        (
            [1, 2],
            "train_dataset, sample 5 of epoch 0: a row is a mapping of column names to values, and a list",
        ),
        (DataError("a.jsonl:3: bad."), "a.jsonl:3: bad."),
    ],
)
def test_a_bad_sample_is_named_after_the_steps_before_it(bad: Any, message: str, workers: int) -> None:
    batches = stream(Failing(bad), num_workers=workers)
    assert [numbers(next(batches)) for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    batches.close()


def test_what_cannot_be_is_said() -> None:
    for make in (stream, lambda d, **o: IterableEvaluationBatches(d, collate, per_device_batch_size=2, **o)):
        with pytest.raises(ConfigError, match="3 loader workers cannot share one stream"):
            make(Counting(), num_workers=3)
    with pytest.raises(DataError, match="there was not one sample in epoch 0; it must hold some"):
        next(stream(Counting(0)))
    once = stream({"n": n, "noise": 0.0} for n in range(3))
    assert [numbers(next(once)) for _ in range(2)] == [[0, 1], [2]]
    with pytest.raises(DataError, match=r"not one sample in epoch 1; .* anew each time it is iterated"):
        next(once)
    batches = stream(Counting())
    for _ in range(8):
        next(batches)
    with pytest.raises(
        CheckpointError, match="saved with 2 samples a step and there are 4 now; continue with"
    ):
        stream(Counting(), 4).load_state_dict(batches.state_dict())
    shrunk = stream(Counting(9))
    shrunk.load_state_dict(batches.state_dict())
    with pytest.raises(DataError, match="epoch 0 ended before its sample 16, up to where it was used"):
        next(shrunk)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_is_the_same_pass_each_time_over_all_ranks(kind: str) -> None:
    def passes(**options: Any) -> list[Any]:
        batches = IterableEvaluationBatches(KINDS[kind](), collate, per_device_batch_size=2, **options)
        first = everything(list(batches))
        assert everything(list(batches)) == first
        return [batch["n"] for batch in first]

    whole = [n for batch in passes() for n in batch]
    assert sorted(whole) == list(range(21))
    assert [n for batch in passes(num_workers=1) for n in batch] == whole
    first, second = passes(rank=0, world_size=2), passes(rank=1, world_size=2)
    assert [len(batch) for batch in first] == [2, 2, 2, 2, 2, 1]
    assert [len(batch) for batch in second] == [2, 2, 2, 2, 2]
    assert [n for pair in zip(first, [*second, []], strict=True) for batch in pair for n in batch] == whole
