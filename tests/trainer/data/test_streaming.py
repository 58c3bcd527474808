"""Streams over rows tokenized on the way: exact resume, the same rows on any ranks, one block read again."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch

from collators import DataCollatorWithFlattening
from conf.errors import CheckpointError, ConfigError, DataError
from trainer.data.sources import Source, SourceOptions
from trainer.data.streaming import StreamBatches

COLLATOR = DataCollatorWithFlattening()


@pytest.fixture
def make_source(tmp_path: Path):
    """A source of ``count`` rows in two files; row n holds one word, or two where n is divisible by 5."""

    def make(count: int, name: str = "a", **options) -> Source:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        rows = [
            {"text": f"{name}{n:03d}x" + (f" {name}{n:03d}yy" if n % 5 == 0 else "")} for n in range(count)
        ]
        for part, taken in ((1, rows[: count // 3]), (2, rows[count // 3 :])):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taken))
        return Source(SourceOptions(path=str(folder), format="text", **options))

    return make


def stream(sources, letters, per_device: int = 2, **options) -> StreamBatches:
    options = {"seed": 5, "block_rows": 16, "collator": COLLATOR} | options
    return StreamBatches(
        [(source, letters) for source in sources], per_device_batch_size=per_device, **options
    )


def words(step: list[dict]) -> list[str]:
    found = []
    for batch in step:
        if (batch["labels"] != -100).any():
            borders = batch["cu_seqlens"].tolist()
            letters = [chr(token) for token in batch["input_ids"][0].tolist()]
            found += ["".join(letters[a:b]) for a, b in pairwise(borders)]
    return found


def epoch_of(batches: StreamBatches) -> list[list[str]]:
    steps = []
    while not (steps and batches.is_epoch_end):
        steps.append(words(next(batches)))
    return steps


@pytest.mark.parametrize("capacity", [None, 12])
def test_an_epoch_has_every_document_once(make_source, letters, capacity):
    batches = stream([make_source(50)], letters, capacity=capacity)
    first, second = epoch_of(batches), epoch_of(batches)
    flat = [sorted(word for step in epoch for word in step) for epoch in (first, second)]
    assert (
        flat[0]
        == flat[1]
        == sorted([f"a{n:03d}x" for n in range(50)] + [f"a{n:03d}yy" for n in range(0, 50, 5)])
    )
    assert first != second
    assert (batches.epoch, batches.steps_per_epoch) == (2.0, None)
    if capacity is None:
        assert [len(step) for step in first] == [2] * 30


def test_shuffling_stays_inside_a_block_and_can_be_off(make_source, letters):
    rows = [word for step in epoch_of(stream([make_source(50)], letters)) for word in step]
    first_block = [f"a{n:03d}" for n in range(16)]
    assert {word[:4] for word in rows[:20]} == set(first_block)  # 16 rows with 20 documents
    assert [word[:4] for word in rows[:20]] != sorted(word[:4] for word in rows[:20])
    ordered = [word for step in epoch_of(stream([make_source(50)], letters, shuffle=False)) for word in step]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("capacity", [None, 12])
def test_a_step_has_the_same_rows_however_it_is_split(make_source, letters, capacity):
    sources = [make_source(50, "a"), make_source(21, "b")]

    def steps(per_device, accumulation, world_size):
        options = {"accumulation": accumulation, "world_size": world_size, "capacity": capacity}
        ranks = [stream(sources, letters, per_device, rank=rank, **options) for rank in range(world_size)]
        return [sorted(word for rank in ranks for word in words(next(rank))) for _ in range(30)]

    whole = steps(8, 1, 1)
    for split in [(2, 4, 1), (4, 1, 2), (1, 4, 2)]:
        assert steps(*split) == whole


def test_ranks_make_equally_many_passes_in_a_short_last_step(make_source, letters):
    ranks = [stream([make_source(4)], letters, 4, world_size=2, rank=rank) for rank in (0, 1)]  # 5 documents
    steps = [next(rank) for rank in ranks]
    assert [len(words(step)) for step in steps] == [4, 1]
    ranks = [
        stream([make_source(2, "b")], letters, 4, world_size=2, rank=rank) for rank in (0, 1)
    ]  # 3 documents
    steps = [next(rank) for rank in ranks]
    assert [len(step) for step in steps] == [1, 1]
    assert [len(words(step)) for step in steps] == [3, 0]
    assert [len(rank.places()) for rank in ranks] == [3, 0]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("capacity", [None, 12])
def test_resuming_at_every_position_equals_never_stopping(make_source, letters, workers: int, capacity):
    sources = [make_source(50, "a"), make_source(21, "b", weight=1.5)]
    options = {"accumulation": 2, "capacity": capacity}
    unbroken = stream(sources, letters, **options)
    expected = []
    for _ in range(60):
        expected.append((words(next(unbroken)), unbroken.is_epoch_end, unbroken.places(), unbroken.epoch))
    assert sum(end for _, end, _, _ in expected) >= 2
    stopped = stream(sources, letters, num_workers=workers, **options)
    for position in range(0, 58, 1 if workers == 0 else 11):
        while stopped.step < position:
            next(stopped)
        resumed = stream(sources, letters, num_workers=workers, **options)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert (resumed.step, resumed.is_epoch_end) == (position, position > 0 and expected[position - 1][1])
        for number in (position, position + 1):
            found = words(next(resumed))
            assert (found, resumed.is_epoch_end, resumed.places(), resumed.epoch) == expected[number]
        resumed.close()
    stopped.close()


def test_resuming_reads_one_block_again(make_source, letters):
    batches = stream([make_source(5000)], letters, per_device=8)
    for _ in islice(batches, 500):
        pass
    before = letters.seen
    resumed = stream([make_source(5000)], letters, per_device=8)
    resumed.load_state_dict(batches.state_dict())
    assert words(next(resumed)) == words(next(batches))
    assert letters.seen - before <= 3 * 16


def test_a_state_loaded_into_a_running_stream(make_source, letters):
    batches = stream([make_source(50)], letters, num_workers=1)
    state = batches.state_dict()
    first = [words(next(batches)) for _ in range(4)]
    batches.load_state_dict(state)
    assert [words(next(batches)) for _ in range(4)] == first
    batches.close()


def test_weights_repeat_rows(make_source, letters):
    batches = stream(
        [make_source(40, "a", weight=0.5), make_source(40, "b", weight=2.25)], letters, per_device=4
    )
    first = Counter(word for step in epoch_of(batches) for word in step)
    assert first == Counter(
        word for step in epoch_of(batches) for word in step
    )  # the same rows in each epoch
    times = {name: Counter(n for word, n in first.items() if word[0] == name) for name in "ab"}
    assert set(times["a"]) == {1}
    assert 12 <= times["a"][1] <= 36  # of 48 documents
    assert set(times["b"]) == {2, 3}
    assert 3 <= times["b"][3] <= 24


def test_sources_are_mixed_within_a_block(make_source, letters):
    batches = stream([make_source(50, "a"), make_source(10, "b")], letters, per_device=4)
    rows = [word[0] for step in epoch_of(batches) for word in step]
    assert Counter(rows[:20])["b"] >= 8
    assert "b" not in rows[-30:]


class Random:
    random = True

    def __call__(self, documents):
        keys = [("".join(map(chr, d["input_ids"])), d["sample_key"]) for d in documents]
        return {"keys": keys, "labels": torch.zeros(1)}


def test_sample_keys_are_different_and_the_same_when_resumed(make_source, letters):
    batches = stream([make_source(50)], letters, collator=Random())
    found, states = [], []
    for _ in range(60):
        states.append(batches.state_dict())
        found.append(next(batches)[0]["keys"])
    assert len({key for step in found for _, key in step}) == 120
    resumed = stream([make_source(50)], letters, collator=Random())
    resumed.load_state_dict(states[37])
    assert next(resumed)[0]["keys"] == found[37]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_rows_are_named(tmp_path: Path, letters, workers: int):
    for text, message in [
        ("oh!", "b.txt:3: nobody may shout."),
        ("x____", "b.txt:3: this row has no supervised"),
    ]:
        (tmp_path / "b.txt").write_text(f"fine\n\n{text}\n")
        batches = stream(
            [Source(SourceOptions(path=str(tmp_path / "b.txt"), format="text"))], letters, num_workers=workers
        )
        with pytest.raises(DataError) as caught:
            next(batches)
        assert str(tmp_path / message) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_is_said(tmp_path: Path, make_source, letters):
    with pytest.raises(ConfigError, match="3 loader workers cannot share one stream"):
        stream([make_source(5)], letters, num_workers=3)
    (tmp_path / "empty.jsonl").write_text("\n")
    empty = Source(SourceOptions(path=str(tmp_path / "empty.jsonl"), format="text"))
    with pytest.raises(DataError, match="there is not one row with text in it"):
        next(stream([empty], letters))
    state = stream([make_source(5)], letters).state_dict()
    with pytest.raises(CheckpointError, match="1 sources and 2 rows a step, and there are 1 and 4 now"):
        stream([make_source(5)], letters, per_device=4).load_state_dict(state)


def test_hub_data_sets_stream_and_resume(tmp_path: Path, letters, monkeypatch):
    import datasets

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text(
        "".join(json.dumps({"text": f"w{n:03d}"}) + "\n" for n in range(60))
    )
    load, asked = datasets.load_dataset, []

    def local(name, *args, streaming, **named):
        asked.append(streaming)
        return load(
            str(tmp_path / "set"), *args, streaming=streaming, cache_dir=str(tmp_path / "hub"), **named
        )

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = Source(SourceOptions(path="owner/set", format="text"))
    batches = stream([source], letters, per_device=8)
    steps, states = [], []
    for _ in range(16):
        states.append(batches.state_dict())
        steps.append(words(next(batches)))
    assert sorted(word for step in steps[:8] for word in step) == [f"w{n:03d}" for n in range(60)]
    for position in (1, 5, 8, 13):
        resumed = stream([source], letters, per_device=8)
        resumed.load_state_dict(states[position])
        assert words(next(resumed)) == steps[position]
    assert all(asked)


def test_without_skipping_data_begin_with_their_epoch_again(make_source, letters):
    batches = stream([make_source(50)], letters, per_device=16)
    steps, states = [], []
    for _ in range(8):
        states.append(batches.state_dict())
        steps.append(words(next(batches)))
    for position, first in [(0, 0), (3, 0), (4, 4), (6, 4)]:
        resumed = stream([make_source(50)], letters, per_device=16)
        resumed.load_state_dict(json.loads(json.dumps(states[position])), skip=False)
        assert resumed.is_epoch_end == (position > 0)
        assert [words(next(resumed)) for _ in range(8 - first)] == steps[first:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_is_given_again_in_smaller_micro_batches(make_source, letters, workers: int):
    unbroken = [words(step) for step in islice(stream([make_source(50)], letters, per_device=8), 9)]
    batches = stream([make_source(50)], letters, per_device=8, num_workers=workers)
    for _ in range(7):
        next(batches)
    batches.step_back()
    batches.resplit(4, 2)
    step = next(batches)
    assert [len(words([batch])) for batch in step] == [4, 4]
    assert [words(step), words(next(batches)), words(next(batches))] == unbroken[6:]
    batches.close()
    with pytest.raises(AssertionError):
        batches.resplit(4, 3)
