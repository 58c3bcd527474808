"""The stream of steps: the same rows however they are split, exact from every position."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from collators import DataCollatorWithFlattening
from conf.errors import CheckpointError, DataError
from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.rows import RowSet

COLLATOR = DataCollatorWithFlattening()
LENGTHS = np.random.default_rng(0).integers(2, 9, size=53).tolist()


def stream(rows: RowSet, per_device: int = 2, **options) -> Batches:
    options = {"seed": 3, "collator": COLLATOR} | options
    return Batches(rows, per_device_batch_size=per_device, **options)


def documents_of(step: list[dict]) -> list[int]:
    """The numbers of the documents in the micro-batches of a step, silent ones left out."""
    found = []
    for batch in step:
        starts = batch["cu_seqlens"][:-1].tolist()
        if (batch["labels"] != -100).any():
            found += batch["input_ids"][0, starts].tolist()
    return found


def equal(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("capacity", [None, 16])
def test_a_step_has_the_same_rows_however_it_is_split(make_rows, capacity):
    rows = RowSet([make_rows(LENGTHS)], capacity=capacity)

    def steps(per_device, accumulation, world_size):
        options = {"accumulation": accumulation, "world_size": world_size}
        ranks = [stream(rows, per_device, rank=rank, **options) for rank in range(world_size)]
        return [sorted(n for rank in ranks for n in documents_of(next(rank))) for _ in range(20)]

    whole = steps(8, 1, 1)
    for split in [(4, 2, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2), (2, 1, 4)]:
        assert steps(*split) == whole


def test_an_epoch_has_every_row_once_and_another_order_each_time(make_rows):
    batches = stream(RowSet([make_rows(LENGTHS)]), per_device=8)
    epochs, lengths = [], []
    for _ in range(3):
        found: list[int] = []
        while True:
            step = documents_of(next(batches))
            found += step
            lengths.append(len(step))
            if batches.is_epoch_end:
                break
        epochs.append(found)
    assert batches.steps_per_epoch == 7
    assert lengths == [8, 8, 8, 8, 8, 8, 5] * 3
    assert [sorted(epoch) for epoch in epochs] == [list(range(53))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert (batches.step, batches.epoch) == (21, 3.0)
    other = stream(RowSet([make_rows(LENGTHS)]), per_device=8, seed=4)
    assert epochs[0] != [n for _ in range(7) for n in documents_of(next(other))]


def test_without_shuffling_and_without_the_last_step(make_rows):
    batches = stream(RowSet([make_rows(LENGTHS)]), per_device=8, shuffle=False, drop_last=True)
    assert batches.steps_per_epoch == 6
    assert [n for _ in range(6) for n in documents_of(next(batches))] == list(range(48))
    assert batches.is_epoch_end
    assert documents_of(next(batches)) == list(range(8))
    with pytest.raises(DataError, match="53 rows do not fill a step of 64"):
        stream(RowSet([make_rows(LENGTHS)]), per_device=64, drop_last=True)


@pytest.mark.parametrize("rows_left", range(1, 9))
def test_ranks_make_equally_many_passes_in_a_short_last_step(make_rows, rows_left: int):
    rows = RowSet([make_rows([4] * (8 + rows_left))])
    ranks = [stream(rows, 2, accumulation=2, rank=rank, world_size=2) for rank in (0, 1)]
    for rank in ranks:
        next(rank)
    steps = [next(rank) for rank in ranks]
    assert len(steps[0]) == len(steps[1]) == -(-rows_left // 4)
    found = [documents_of(step) for step in steps]
    assert sorted(found[0] + found[1]) == sorted(rows_of_last_step(rows))
    for number, rank in enumerate(ranks):
        assert rank.is_epoch_end
        assert [int(place.split(":")[1]) - 1 for place in rank.places()] == found[number]
    silent = [batch for step in steps for batch in step if (batch["labels"] == -100).all()]
    assert len(silent) == (rows_left % 4 in (1, 2))
    for batch in silent:
        assert batch["input_ids"].shape == (1, 4)  # one row is enough to go through the model


def rows_of_last_step(rows: RowSet) -> list[int]:
    batches = stream(rows, 8)
    next(batches)
    return documents_of(next(batches))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_resuming_at_every_position_equals_never_stopping(make_rows, workers: int, accumulation: int):
    rows = RowSet([make_rows(LENGTHS)], capacity=12)
    unbroken = stream(rows, accumulation=accumulation)
    expected = [next(unbroken) for _ in range(2 * unbroken.steps_per_epoch + 3)]
    positions = range(0, len(expected) - 2, 1 if workers == 0 else 7)
    stopped = stream(rows, accumulation=accumulation, num_workers=workers)
    for position in positions:
        while stopped.step < position:
            assert equal(next(stopped), expected[stopped.step - 1])
        resumed = stream(rows, accumulation=accumulation, num_workers=workers)
        resumed.load_state_dict(stopped.state_dict())
        for number in range(position, min(position + 3, len(expected))):
            assert equal(next(resumed), expected[number])
        assert resumed.places() == stream(rows, accumulation=accumulation).places(resumed.step - 1)
        resumed.close()
    stopped.close()


def test_going_back_in_the_same_stream(make_rows):
    batches = stream(RowSet([make_rows(LENGTHS)]), num_workers=2)
    start = batches.state_dict()
    first = [next(batches) for _ in range(3)]
    batches.load_state_dict(start)
    assert all(equal(next(batches), step) for step in first)
    batches.close()


def test_a_position_of_other_data_or_another_global_batch_is_refused(make_rows):
    state = stream(RowSet([make_rows(LENGTHS)])).state_dict()
    with pytest.raises(CheckpointError, match="saved with 53 rows and there are 4 now"):
        stream(RowSet([make_rows([2] * 4, "b")])).load_state_dict(state)
    with pytest.raises(CheckpointError, match="saved with 2 rows per step and there are 8 now"):
        stream(RowSet([make_rows(LENGTHS)]), accumulation=4).load_state_dict(state)
    stream(RowSet([make_rows(LENGTHS)]), 1, world_size=2, rank=1).load_state_dict(
        state
    )  # the same global batch


def test_seeking_a_million_steps_collates_one_batch(make_rows):
    calls = []

    def counting(documents):
        calls.append(len(documents))
        return COLLATOR(documents)

    batches = stream(RowSet([make_rows(LENGTHS)]), collator=counting)
    batches.load_state_dict(batches.state_dict() | {"step": 10**6})
    step = next(batches)
    assert calls == [2]
    assert batches.step == 10**6 + 1
    again = stream(RowSet([make_rows(LENGTHS)]), start_step=10**6)
    assert equal(step, next(again))


def test_places_name_the_rows(make_rows):
    rows = RowSet([make_rows(LENGTHS)], capacity=16)
    batches = stream(rows, accumulation=2)
    step = next(batches)
    assert batches.places() == [f"a.jsonl:{n + 1}" for n in documents_of(step)]
    next(batches)
    assert batches.places(0) == [f"a.jsonl:{n + 1}" for n in documents_of(step)]


class Random:
    """A collator that draws: the keys it got are its batch."""

    random = True

    def __call__(self, documents):
        keys = [(int(d["input_ids"][0]), d["sample_key"]) for d in documents]
        return {"keys": keys, "labels": torch.zeros(1)}


@pytest.mark.parametrize("workers", [0, 2])
def test_sample_keys_are_of_the_document_and_the_epoch_only(make_rows, workers: int):
    def keys(capacity, per_device, **options):
        rows = RowSet([make_rows(LENGTHS)], capacity=capacity)
        batches = stream(rows, per_device, collator=Random(), num_workers=workers, **options)
        epochs = [
            dict(k for _ in range(batches.steps_per_epoch) for m in next(batches) for k in m["keys"])
            for _ in (0, 1)
        ]
        batches.close()
        return epochs

    first, second = keys(None, 2)
    assert len(set(first.values()) | set(second.values())) == 2 * len(LENGTHS)
    assert keys(16, 3, accumulation=2) == [first, second]
    assert keys(None, 2, seed=9)[0] != first


def test_other_collators_get_no_key(make_rows):
    seen = []

    def looking(documents):
        seen.extend(documents)
        return COLLATOR(documents)

    next(stream(RowSet([make_rows(LENGTHS)]), collator=looking))
    assert all(document.keys() == {"input_ids", "loss_mask"} for document in seen)


def test_starting_workers_leaves_the_random_generators_alone(make_rows):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches = stream(RowSet([make_rows(LENGTHS)]), num_workers=2)
    next(batches)
    batches.close()
    assert torch.equal(torch.get_rng_state(), before)


def failing(documents):
    raise DataError("a.jsonl:7: this row is bad.")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_a_worker_is_the_sentence_it_was(make_rows, workers: int):
    batches = stream(RowSet([make_rows(LENGTHS)]), collator=failing, num_workers=workers)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "a.jsonl:7: this row is bad."
    batches.close()


INTERRUPTED = """
import os, signal, sys, time
from collators import DataCollatorWithFlattening
from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.cache import TokenRows
from trainer.data.rows import RowSet
caught = []
signal.signal(signal.SIGINT, lambda *_: caught.append("INT"))
signal.signal(signal.SIGTERM, lambda *_: caught.append("TERM"))
rows = RowSet([TokenRows(sys.argv[1])])
batches = Batches(
    rows, DataCollatorWithFlattening(), seed=0, per_device_batch_size=1, num_workers=2, prefetch_factor=1
)
next(batches)
print("ready", flush=True)
while len(caught) < 2:
    time.sleep(0.01)
for _ in range(40):
    next(batches)
print("finished", sorted(caught), flush=True)
"""


def test_signals_to_the_process_group_reach_the_run_and_not_its_workers(make_rows):
    folder = make_rows(LENGTHS).folder
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.killpg(child.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(child.pid, signal.SIGTERM)
    output, errors = child.communicate(timeout=30)
    assert output == "finished ['INT', 'TERM']\n", errors
    assert child.returncode == 0


def test_mixture_in_a_stream(make_rows):
    rows = RowSet([make_rows([3] * 10, "a"), make_rows([3] * 6, "b")], weights=[1.0, 2.5], capacity=9)
    batches = stream(rows, per_device=2)
    places: Counter[str] = Counter()
    for _ in range(batches.steps_per_epoch):
        next(batches)
        places.update(batches.places())
    assert sum(n for place, n in places.items() if place[0] == "b") == 15
    assert sorted(places.values()) == [1] * 10 + [2] * 3 + [3] * 3


def test_evaluation_is_one_pass_in_order_over_all_ranks(make_rows):
    rows = RowSet([make_rows([4] * 11)])
    ranks = [EvaluationBatches(rows, COLLATOR, per_device_batch_size=2, rank=r, world_size=2) for r in (0, 1)]
    found = [[documents_of([batch]) for batch in rank] for rank in ranks]
    assert found == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10]]]
    assert [documents_of([batch]) for batch in ranks[0]] == found[0]


def test_grouped_by_length_steps_hold_similar_rows_whatever_the_ranks(make_rows):
    lengths = np.random.default_rng(1).integers(2, 60, size=801)
    rows = RowSet([make_rows(lengths.tolist())])

    def epochs(per_device, accumulation, world_size):
        options = {"accumulation": accumulation, "world_size": world_size, "lengths": rows.lengths}
        ranks = [stream(rows, per_device, rank=rank, **options) for rank in range(world_size)]
        steps = [sorted(n for rank in ranks for n in documents_of(next(rank))) for _ in range(202)]
        return [steps[:101], steps[101:]]

    whole = epochs(8, 1, 1)
    assert epochs(4, 2, 1) == epochs(2, 1, 4) == epochs(2, 2, 2) == whole
    assert whole[0] != whole[1]
    for epoch in whole:
        assert sorted(n for step in epoch for n in step) == list(range(801))
        spread = np.mean([np.ptp(lengths[step]) for step in epoch])
        assert spread < 5
        assert lengths[epoch[0]].max() == lengths.max()
    plain = stream(rows, 8)
    assert np.mean([np.ptp(lengths[documents_of(next(plain))]) for _ in range(101)]) > 30


def test_grouped_by_length_resumes_and_has_another_order_each_epoch(make_rows):
    rows = RowSet([make_rows(LENGTHS)])
    unbroken = stream(rows, lengths=rows.lengths)
    expected = [documents_of(next(unbroken)) for _ in range(60)]
    assert expected[:27] != expected[27:54]
    for position in (0, 5, 26, 27, 40):
        resumed = stream(rows, lengths=rows.lengths, start_step=position)
        assert [documents_of(next(resumed)) for _ in range(8)] == expected[position : position + 8]
        assert resumed.places(position) == [f"a.jsonl:{n + 1}" for n in expected[position]]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_given_again_in_smaller_micro_batches(make_rows, workers: int):
    rows = RowSet([make_rows(LENGTHS)])
    unbroken = [documents_of(step) for step in islice(stream(rows, 8), 14)]
    batches = stream(rows, 8, num_workers=workers)
    found = [documents_of(next(batches)) for _ in range(3)]
    batches.step_back()
    batches.resplit(2, 4)
    step = next(batches)
    assert [len(documents_of([batch])) for batch in step] == [2, 2, 2, 2]
    assert documents_of(step) == found[2]
    found += [documents_of(next(batches)) for _ in range(11)]
    assert found == unbroken
    assert batches.step == 14
    assert [len(documents_of([batch])) for batch in stream_at(batches, 6)] == [2, 2, 1]
    batches.close()
    with pytest.raises(AssertionError, match="other rows"):
        batches.resplit(3, 3)


def stream_at(batches: Batches, step: int) -> list[dict]:
    batches.load_state_dict(batches.state_dict() | {"step": step})
    return next(batches)


def test_without_skipping_data_begin_with_their_epoch_again(make_rows):
    batches = stream(RowSet([make_rows(LENGTHS)]), 8)
    expected = [documents_of(next(batches)) for _ in range(14)]
    for position, first in [(0, 0), (3, 0), (7, 7), (10, 7)]:
        resumed = stream(RowSet([make_rows(LENGTHS)]), 8)
        resumed.load_state_dict(batches.state_dict() | {"step": position}, skip=False)
        assert (resumed.epoch, resumed.is_epoch_end) == (first / 7, first > 0)
        assert [documents_of(next(resumed)) for _ in range(14 - first)] == expected[first:]
        later = stream(RowSet([make_rows(LENGTHS)]), 8)
        later.load_state_dict(resumed.state_dict())
        assert documents_of(next(later)) == documents_of(next(resumed))


def test_no_row_at_all_is_said():
    class Empty:
        foreign = False

        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="there is not one row of data"):
        EvaluationBatches(Empty(), COLLATOR, per_device_batch_size=2)
