"""Row sets: mixture and packing by number, and the rows that nothing can be learnt from."""

from __future__ import annotations

from collections import Counter

import numpy as np

from trainer.data.rows import RowSet, rows_without_target


def ids(rows: RowSet, row: int) -> list[tuple[int, int]]:
    return [(int(d["input_ids"][0]), len(d["input_ids"])) for d in rows.documents(row)]


def test_single_documents(make_rows):
    rows = RowSet([make_rows([3, 1, 4])])
    assert [ids(rows, row) for row in range(len(rows))] == [[(0, 3)], [(1, 1)], [(2, 4)]]
    assert rows.lengths.tolist() == [3, 1, 4]
    assert rows.supervised.tolist() == [2, 0, 3]
    assert (rows.num_documents, rows.efficiency) == (3, 1.0)
    assert rows.places(2) == ["a.jsonl:3"]


def test_packed_rows_hold_every_document_once(make_rows):
    lengths = np.random.default_rng(0).integers(1, 60, size=200)
    rows = RowSet([make_rows(lengths)], capacity=64)
    found = [document for row in range(len(rows)) for document in ids(rows, row)]
    assert sorted(found) == list(enumerate(lengths.tolist()))
    for row in range(len(rows)):
        assert rows.lengths[row] == sum(length for _, length in ids(rows, row)) <= 64
        assert rows.supervised[row] == sum(length - 1 for _, length in ids(rows, row))
        assert rows.places(row) == [f"a.jsonl:{number + 1}" for number, _ in ids(rows, row)]
    assert rows.efficiency == lengths.sum() / (64 * len(rows))


def test_mixture_of_sources(make_rows):
    rows = RowSet([make_rows([2] * 10, "a"), make_rows([3] * 4, "b")], weights=[0.5, 2.0], seed=1, capacity=8)
    places = Counter(place for row in range(len(rows)) for place in rows.places(row))
    assert rows.num_documents == 13
    assert {place: n for place, n in places.items() if place[0] == "b"} == {
        f"b.jsonl:{n}": 2 for n in range(1, 5)
    }
    assert sum(place[0] == "a" for place in places) == 5
    numbers = [number for row in range(len(rows)) for number in rows.numbers(row)]
    assert sorted(numbers) == list(range(13))  # a row seen twice has two numbers


def test_rows_without_target(make_rows, tmp_path):
    masks = [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert rows_without_target(RowSet([make_rows([2] * 4, masks=masks)])) == ["a.jsonl:2", "a.jsonl:3"]
    assert rows_without_target(RowSet([make_rows([2] * 4, "b")])) == []


def test_a_row_of_several_documents_needs_one_target(tmp_path):
    from trainer.data.cache import TokenRows, write_once

    def fill(writer):
        for line, mask in [(1, [0, 1]), (1, [0, 0]), (2, [0, 0]), (2, [0, 0]), (3, [0, 1])]:
            ids = np.zeros(2, np.int32)
            writer.add({"input_ids": ids, "loss_mask": np.array(mask, np.uint8)}, "f", line)
        return {}

    write_once(tmp_path / "x", fill)
    assert rows_without_target(RowSet([TokenRows(tmp_path / "x")])) == ["f:2"]
