"""Packing: every document once, no row too long, as full as the textbook's best-fit decreasing."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.data.packing import pack


def lognormal(count: int, seed: int, mean: float = 5.5, capacity: int = 2048) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).lognormal(mean, 0.8, count).astype(int), 8, capacity)


def naive_row_lengths(lengths: np.ndarray, capacity: int) -> list[int]:
    """Best-fit decreasing as in a textbook: one document at a time, all rows looked at."""
    rooms: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms[rooms.index(min(fitting))] -= length
        else:
            rooms.append(capacity - length)
    return sorted(capacity - room for room in rooms)


@pytest.mark.parametrize("seed", range(20))
def test_rows_are_those_of_best_fit_decreasing(seed: int):
    random = np.random.default_rng(seed)
    capacity = int(random.integers(10, 300))
    lengths = random.integers(1, capacity + 1, size=int(random.integers(1, 300)))
    if seed % 2:
        lengths = np.minimum(lognormal(len(lengths), seed, mean=3.0), capacity)
    packed = pack(lengths, capacity)
    assert sorted(packed.documents.tolist()) == list(range(len(lengths)))
    row_lengths = [int(lengths[packed[row]].sum()) for row in range(len(packed))]
    assert sorted(row_lengths) == naive_row_lengths(lengths, capacity)
    assert packed.efficiency == pytest.approx(lengths.sum() / (capacity * len(packed)))


def test_lognormal_lengths_fill_rows():
    lengths = lognormal(100_000, 0)
    packed = pack(lengths, 2048)
    row_lengths = np.add.reduceat(lengths[packed.documents], packed.offsets[:-1])
    assert row_lengths.max() <= 2048
    assert packed.efficiency >= 0.999


def test_documents_of_a_row_keep_their_order_and_the_same_lengths_give_the_same_rows():
    lengths = lognormal(5000, 1)
    packed, again = pack(lengths, 2048), pack(lengths.copy(), 2048)
    assert np.array_equal(packed.documents, again.documents)
    assert np.array_equal(packed.offsets, again.offsets)
    inside = np.ones(len(lengths) - 1, dtype=bool)
    inside[packed.offsets[1:-1] - 1] = False
    assert (np.diff(packed.documents)[inside] > 0).all()


def test_edges():
    assert len(pack(np.array([5]), 5)) == 1
    assert pack(np.full(10, 3), 7).offsets.tolist() == [0, 2, 4, 6, 8, 10]
    with pytest.raises(AssertionError, match="does not fit"):
        pack(np.array([6]), 5)


@pytest.mark.stress
def test_a_million_documents_pack_quickly():
    from time import perf_counter

    lengths = lognormal(1_000_000, 0)
    start = perf_counter()
    packed = pack(lengths, 2048)
    assert len(lengths) / (perf_counter() - start) >= 500_000
    assert packed.efficiency >= 0.999
