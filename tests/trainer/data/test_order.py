"""Keys, keyed permutations and mixtures: exact, and without visible structure."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from trainer.data.order import Bijection, grouped_by_length, key, mixture


def test_key_is_fixed_for_ever():
    assert key(1, 2, "order") == 5150632507123598562
    assert len({key(1, 23), key(12, 3), key("1", 23), key(123), key(1, 2, 3)}) == 5


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 100, 1000, 65_537])
def test_bijection_is_one_to_one(size: int):
    bijection = Bijection(size, key(7, size))
    elements = bijection.take(np.arange(size))
    assert sorted(elements.tolist()) == list(range(size))
    assert [bijection(position) for position in range(min(size, 5))] == elements[:5].tolist()


def test_bijection_of_huge_range_costs_no_array():
    bijection = Bijection(10**15, key(1))
    elements = bijection.take(np.arange(10**15 - 1000, 10**15))
    assert len(set(elements.tolist())) == 1000
    assert 0 <= elements.min() <= elements.max() < 10**15
    assert abs(elements.mean() / 10**15 - 0.5) < 0.05


@pytest.mark.parametrize("size", [3, 4])
def test_every_permutation_of_a_small_range_is_about_as_likely(size: int):
    draws = 6000
    found = [tuple(Bijection(size, key(draw)).take(np.arange(size)).tolist()) for draw in range(draws)]
    counts = np.array([found.count(permutation) for permutation in permutations(range(size))])
    expected = draws / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < len(counts) - 1 + 5 * np.sqrt(2 * (len(counts) - 1))


@pytest.mark.parametrize("size", [100, 1009])
def test_positions_are_uniform_and_pairs_are_independent(size: int):
    draws = 2000
    tables = np.stack([Bijection(size, key(draw, "x")).take(np.arange(size)) for draw in range(draws)])
    bins = tables * 10 // size  # where each position lands, in tenths
    counts = np.stack([(bins == tenth).sum(0) for tenth in range(10)])
    expected = np.bincount(np.arange(size) * 10 // size) * draws / size
    chi_square = ((counts - expected[:, None]) ** 2 / expected[:, None]).sum(0)  # 9 degrees of freedom each
    assert chi_square.max() < 45
    assert abs(chi_square.mean() - 9) < 1.5
    centred = tables - (size - 1) / 2
    variance = (size**2 - 1) / 12
    for lag in (1, 2, size // 2):  # neighbours land apart: correlation is -1 / (size - 1) in a fair shuffle
        correlation = (centred[:, :-lag] * centred[:, lag:]).mean() / variance
        assert abs(correlation + 1 / (size - 1)) < 4 / np.sqrt(draws * (size - lag))


def test_epochs_are_independent():
    size = 100_000
    first, second = (Bijection(size, key(0, epoch, "order")).take(np.arange(size)) for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(size)
    assert (first == second).sum() < 8  # one is expected
    assert abs((np.diff(first) == 1).sum() - 1) < 7


def test_mixture_counts_are_exact():
    source, row = mixture([10, 10, 7], [1.0, 2.3, 0.5], seed=0)
    assert np.bincount(source).tolist() == [10, 23, 4]
    times = np.bincount(row[source == 1], minlength=10)
    assert sorted(times.tolist()) == [2] * 7 + [3] * 3
    assert len(set(row[source == 2].tolist())) == 4


def test_mixture_fraction_is_keyed():
    half = mixture([1000], [0.5], seed=0)[1]
    assert np.array_equal(half, mixture([1000], [0.5], seed=0)[1])
    overlap = len(np.intersect1d(half, mixture([1000], [0.5], seed=1)[1]))
    assert 190 < overlap < 310
    assert len(mixture([3], [0.01], seed=0)[1]) == 1


@pytest.mark.parametrize(("rows", "batch"), [(1000, 4), (997, 2), (37, 4), (7, 8), (1, 1)])
def test_grouping_by_length_is_the_references(rows: int, batch: int, monkeypatch) -> None:
    lengths = np.random.default_rng(rows).permutation(rows) // 3
    order = Bijection(rows, 5).take(np.arange(rows))
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: torch.from_numpy(order))
    expected = get_length_grouped_indices(lengths.tolist(), batch)
    found = grouped_by_length(order, lengths, batch)
    longest = lengths == lengths.max()
    assert lengths[found[0]] == lengths.max()
    assert lengths[found].tolist() == lengths[expected].tolist()
    if longest.sum() == 1:  # the reference leaves open which of several comes first
        assert found.tolist() == expected
    assert sorted(found.tolist()) == list(range(rows))
