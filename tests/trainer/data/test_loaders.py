"""Streams over loaders that users bring: steps of their batches, their shuffling repeatable."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from conf.errors import CheckpointError, ConfigError, DataError
from trainer.data.loaders import LoaderBatches

DATA = [{"n": n} for n in range(23)]


def collate(rows: Any) -> dict[str, torch.Tensor]:
    return {"n": torch.tensor([row["n"] for row in rows]), "noise": torch.rand(1)}


class Epochs:
    """Not a DataLoader: any iterable of batches that is told the epoch."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for n in random.Random(self.epoch).sample(range(6), 6):
            yield {"n": torch.tensor([n, n]), "noise": torch.tensor([random.random()])}


def loaders() -> dict[str, Any]:
    options: dict[str, Any] = {"batch_size": 4, "collate_fn": collate}
    own = torch.Generator()
    sampler = DistributedSampler(DATA, num_replicas=1, rank=0, seed=1)  # type: ignore[arg-type]
    return {
        "ordered": DataLoader(DATA, **options),  # type: ignore[arg-type]
        "shuffled": DataLoader(DATA, shuffle=True, **options),  # type: ignore[arg-type]
        "generator": DataLoader(DATA, shuffle=True, generator=own, **options),  # type: ignore[arg-type]
        "sampler": DataLoader(DATA, sampler=sampler, **options),  # type: ignore[arg-type]
        "workers": DataLoader(DATA, shuffle=True, num_workers=1, **options),  # type: ignore[arg-type]
        "iterable": Epochs(),
    }


def numbers(step: list[dict[str, Any]]) -> list[int]:
    return [n for batch in step for n in batch["n"].tolist()]


def everything(step: list[dict[str, Any]]) -> list[Any]:
    return [(batch["n"].tolist(), batch["noise"].tolist()) for batch in step]


@pytest.mark.parametrize("kind", loaders())
def test_resuming_at_every_position_equals_never_stopping(kind: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    unbroken = LoaderBatches(loaders()[kind], 4, seed=3)
    expected, states = [], []
    for _ in range(7):
        states.append(json.loads(json.dumps(unbroken.state_dict())))
        step = everything(next(unbroken))
        expected.append((step, unbroken.is_epoch_end, unbroken.places(), unbroken.epoch, unbroken.step))
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(step) for step, *_ in expected] == [4, 2, 4, 2, 4, 2, 4]
    assert [end for _, end, *_ in expected] == [False, True] * 3 + [False]
    first, second = ([n for step, *_ in expected[i : i + 2] for ns, _ in step for n in ns] for i in (0, 2))
    assert sorted(first) == sorted(second)
    assert (first != second) == (kind != "ordered")
    torch.manual_seed(1)
    for position in range(6):
        resumed = LoaderBatches(loaders()[kind], 4, seed=3)
        resumed.load_state_dict(states[position])
        for number in range(position, 7):
            found = everything(next(resumed))
            assert (found, resumed.is_epoch_end, resumed.places(), resumed.epoch, resumed.step) == expected[
                number
            ]


def test_the_seed_decides_a_loaders_order() -> None:
    for kind in ("shuffled", "generator"):
        one, same, other = (numbers(next(LoaderBatches(loaders()[kind], 4, seed=s))) for s in (3, 3, 4))
        assert one == same != other


def test_epochs_and_places() -> None:
    batches = LoaderBatches(loaders()["ordered"], 4, seed=0)
    assert (batches.steps_per_epoch, batches.resume_note) == (2, None)
    next(batches)
    assert batches.places() == [f"batch {n} of the training loader" for n in range(4)]
    assert (batches.epoch, batches.resume_note) == (
        0.5,
        "the training loader cannot be entered in the middle: 4 batches of epoch 0 are read again and "
        "skipped.",
    )
    next(batches)
    assert batches.places() == ["batch 4 of the training loader", "batch 5 of the training loader"]
    next(batches)
    batches.skip_epoch()
    assert (batches.epoch, batches.is_epoch_end) == (2.0, True)
    unsized = LoaderBatches(Epochs(), 3, seed=0)
    assert unsized.steps_per_epoch is None
    assert [(next(unsized), unsized.epoch)[1] for _ in range(3)] == [0.0, 1.0, 1.0]


def test_without_skipping_data_begin_with_their_epoch_again() -> None:
    batches = LoaderBatches(loaders()["shuffled"], 2, seed=0)
    expected = [numbers(next(batches)) for _ in range(4)]
    resumed = LoaderBatches(loaders()["shuffled"], 2, seed=0)
    resumed.load_state_dict(batches.state_dict(), skip=False)
    assert (resumed.epoch, resumed.step) == (1.0, 4)
    assert numbers(next(resumed)) == expected[3]


def test_what_cannot_be_is_said() -> None:
    batches = LoaderBatches(loaders()["ordered"], 2, seed=0)
    with pytest.raises(ConfigError, match=r"training\.auto_find_batch_size: a data loader of your own"):
        batches.resplit(1, 4)
    with pytest.raises(CheckpointError, match="saved with 2 batches a step and there are 3 now"):
        LoaderBatches(loaders()["ordered"], 3, seed=0).load_state_dict(batches.state_dict())
    with pytest.raises(DataError, match="the training loader: there was not one batch in epoch 0"):
        next(LoaderBatches([], seed=0))
    pairs = LoaderBatches(DataLoader(DATA, batch_size=4, collate_fn=tuple), seed=0)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"batch 0 of the training loader: a batch is a mapping .* a tuple was"
    ):
        next(pairs)


def test_the_step_given_out_last_is_given_again() -> None:
    batches = LoaderBatches(loaders()["shuffled"], 2, seed=0)
    steps = [everything(next(batches)) for _ in range(4)]
    batches.step_back()
    assert everything(next(batches)) == steps[3]
