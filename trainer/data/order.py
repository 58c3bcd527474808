"""Randomness as functions of integers: keys, keyed permutations without arrays, mixtures of sources.

Whatever is drawn here depends on its arguments alone, never on what was drawn before, so any point of a
training can be reached at once and a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import isqrt

import numpy as np

MEGA_BATCHES = 50  # steps sorted by length together; the reference's number
ROUNDS = 8  # four passes over each half: tests see no structure even for sets of three

_FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)


def key(*parts: int | str) -> int:
    """A stable 64-bit number for these parts, such as ``key(seed, epoch, "order")``.

    The same in every process and on every machine; the parts' types and borders count, so that
    ``key(1, 23)``, ``key(12, 3)`` and ``key("1", 23)`` differ.
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__[0]}{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little")


class Bijection:
    """A permutation of ``range(size)`` that costs no memory: each position is computed from the key.

    A Feistel network on the two digits of a position written in mixed radix (a, b), a * b barely above
    ``size``: each round adds to one digit a hash of the other, modulo its radix, which can be undone and is
    therefore one-to-one. A position that leaves the range walks on along its cycle until it is back in it
    (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """

    def __init__(self, size: int, key: int):
        assert size > 0, "a permutation needs at least one element"
        self.size = size
        radix = isqrt(size - 1) + 1
        self._radices = (np.uint64(radix), np.uint64(-(-size // radix)))
        seeds = np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        self._round_keys = _mix(seeds + np.uint64(key & 0xFFFFFFFFFFFFFFFF))

    def __call__(self, position: int) -> int:
        """The element at ``position``."""
        return int(self.take(np.array([position]))[0])

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The elements at ``positions`` (any integer array of shape (n,)), int64."""
        assert positions.size == 0 or (positions.min() >= 0 and positions.max() < self.size)
        elements = self._permute(positions.astype(np.uint64))
        outside = np.flatnonzero(elements >= self.size)
        while outside.size:
            elements[outside] = self._permute(elements[outside])
            outside = outside[elements[outside] >= self.size]
        return elements.astype(np.int64)

    def _permute(self, values: np.ndarray) -> np.ndarray:
        """One pass through the network: a permutation of ``range(a * b)``."""
        first_radix, second_radix = self._radices
        second, first = np.divmod(values, first_radix)
        for number, round_key in enumerate(self._round_keys):
            if number % 2 == 0:
                first = (first + _mix(second ^ round_key) % first_radix) % first_radix
            else:
                second = (second + _mix(first ^ round_key) % second_radix) % second_radix
        return second * first_radix + first


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit values so that each bit depends on all (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * _FIRST_MULTIPLIER
    values = (values ^ (values >> np.uint64(27))) * _SECOND_MULTIPLIER
    return values ^ (values >> np.uint64(31))


def grouped_by_length(order: np.ndarray, lengths: np.ndarray, rows_per_step: int) -> np.ndarray:
    """A random order of rows rearranged so that the rows of a step are about equally long, int64.

    Mega-batches of up to 50 steps of the order, each sorted by length, longest first; the longest row of all
    comes first, so that what does not fit into memory shows at once. Of less than 200 steps there are about
    four mega-batches. ``lengths`` (rows,) by row number. Source: ``group_by_length`` of the reference.
    """
    steps = max(1, min(len(order) // (rows_per_step * 4), MEGA_BATCHES))
    mega_batch = np.arange(len(order)) // (steps * rows_per_step)
    grouped = order[np.lexsort((-lengths[order], mega_batch))]
    starts = np.arange(0, len(order), steps * rows_per_step)
    longest = starts[np.argmax(lengths[grouped[starts]])]
    grouped[[0, longest]] = grouped[[longest, 0]]
    return grouped


def mixture(sizes: Sequence[int], weights: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of which sources make up one epoch: arrays ``(source int32, row int64)``, source by source.

    A weight says how often an epoch sees each row of its source: 2 is twice, 0.5 is a keyed half of the rows
    (the same half in every epoch), 1.25 is all of them and a quarter again. The number of rows is exactly
    ``round(size * weight)``, and never 0.
    """
    sources, rows = [], []
    for source, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        assert min(size, weight) > 0, "a source has rows and a positive weight"
        repeats, remainder = divmod(max(1, round(size * weight)), size)
        chosen = Bijection(size, key(seed, "mixture", source)).take(np.arange(remainder))
        every = np.tile(np.arange(size, dtype=np.int64), repeats)
        rows.append(np.concatenate([every, np.sort(chosen)]))
        sources.append(np.full(len(rows[-1]), source, dtype=np.int32))
    return np.concatenate(sources), np.concatenate(rows)
