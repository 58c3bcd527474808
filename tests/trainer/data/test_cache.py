"""The token cache: what is written is read, nobody sees half of it, and damage is mended."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from trainer.data import cache
from trainer.data.cache import TokenRows, content_key, is_complete, write_once


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != cache.LOCK)


def fill_with(lengths, report=None, mark=0):
    def fill(writer):
        for number, length in enumerate(lengths):
            ids = np.arange(number, number + length, dtype=np.int32)
            mask = (ids % 2).astype(np.uint8)
            writer.add({"input_ids": ids + mark, "loss_mask": mask}, f"f{number % 2}.jsonl", number + 1)
        return report or {}

    return fill


def test_what_is_written_is_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache, "DOCUMENTS_AT_ONCE", 7)  # several flushes
    lengths = np.random.default_rng(0).integers(1, 20, size=50)
    assert write_once(tmp_path / "c" / "x", fill_with(lengths, {"rows": 3})) == {"rows": 3}
    rows = TokenRows(tmp_path / "c" / "x")
    assert len(rows) == 50
    assert rows.lengths.dtype == np.int32
    assert rows.lengths.tolist() == lengths.tolist()
    assert rows.report == {"rows": 3}
    for number, length in enumerate(lengths):
        document = rows.document(number)
        ids = np.arange(number, number + length)
        assert document["input_ids"].tolist() == ids.tolist()
        assert document["input_ids"].dtype == np.int32
        assert document["loss_mask"].tolist() == (ids % 2).tolist()
        assert rows.supervised[number] == (ids[1:] % 2).sum()
        assert rows.place(number) == f"f{number % 2}.jsonl:{number + 1}"
    assert names(tmp_path / "c") == ["x"]


def test_files_are_ordinary_npy(tmp_path: Path):
    write_once(tmp_path / "x", fill_with([3, 4]))
    assert np.load(tmp_path / "x" / "input_ids.values.npy").tolist() == [0, 1, 2, 1, 2, 3, 4]
    assert np.load(tmp_path / "x" / "offsets.npy").tolist() == [0, 3, 7]
    assert np.load(tmp_path / "x" / "places.npy").tolist() == [[0, 1], [1, 2]]


def test_documents_are_read_only_views_and_rows_travel_by_name(tmp_path: Path):
    write_once(tmp_path / "x", fill_with([3, 400_000]))
    rows = TokenRows(tmp_path / "x")
    with pytest.raises(ValueError, match="read-only"):
        rows.document(1)["input_ids"][0] = 5
    sent = pickle.dumps(rows)
    assert len(sent) < 1000
    assert pickle.loads(sent).document(0)["input_ids"].tolist() == [0, 1, 2]


def test_an_existing_folder_is_not_written_again(tmp_path: Path):
    write_once(tmp_path / "x", fill_with([3], {"a": 1}))

    def never(writer):
        raise AssertionError("written twice")

    assert write_once(tmp_path / "x", never) == {"a": 1}


@pytest.mark.parametrize("damage", ["missing values", "missing meta", "cut short", "meta without sense"])
def test_a_damaged_folder_is_replaced(tmp_path: Path, damage: str):
    folder = tmp_path / "x"
    write_once(folder, fill_with([3, 5]))
    if damage == "missing values":
        (folder / "input_ids.values.npy").unlink()
    elif damage == "missing meta":
        (folder / "meta.json").unlink()
    elif damage == "cut short":
        os.truncate(folder / "loss_mask.values.npy", 130)
    else:
        (folder / "meta.json").write_text("[]")
    assert not is_complete(folder)
    write_once(folder, fill_with([3, 5], mark=10))
    assert TokenRows(folder).document(0)["input_ids"].tolist() == [10, 11, 12]
    assert names(tmp_path) == ["x"]


def test_a_failure_leaves_nothing(tmp_path: Path):
    def fail(writer):
        fill_with([3])(writer)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_once(tmp_path / "x", fail)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    left = tmp_path / f"{cache._staging_prefix(tmp_path / 'x')}{int(child.stdout)}-abcd"
    left.mkdir()
    running = tmp_path / f"{cache._staging_prefix(tmp_path / 'x')}{os.getppid()}-abcd"
    running.mkdir()
    write_once(tmp_path / "x", fill_with([3]))
    assert names(tmp_path) == sorted([running.name, "x"])


def _write_after(folder: Path, mark: int, barrier, done) -> None:
    def fill(writer):
        barrier.wait(20)  # both are writing before either publishes
        return fill_with([3] * 100, {"by": mark}, mark)(writer)

    done.put(write_once(folder, fill)["by"])


def test_of_two_processes_that_write_at_once_one_wins(tmp_path: Path):
    context = get_context("fork")
    barrier, done = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_write_after, args=(tmp_path / "x", mark, barrier, done)) for mark in (10, 20)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    winners = {done.get(timeout=5), done.get(timeout=5)}
    assert len(winners) == 1
    assert TokenRows(tmp_path / "x").document(0)["input_ids"].tolist() == [
        mark + n for mark in winners for n in range(3)
    ]
    assert names(tmp_path) == ["x"]


def test_many_writers_that_find_it_damaged(tmp_path: Path):
    folder = tmp_path / "x"
    write_once(folder, fill_with([3]))
    (folder / "meta.json").unlink()
    errors = []

    def work():
        try:
            write_once(folder, fill_with([3], {"ok": 1}))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert TokenRows(folder).report == {"ok": 1}
    assert names(tmp_path) == ["x"]


def test_content_key_depends_on_every_part_and_the_code(monkeypatch):
    keys = {content_key(a=1, b="x"), content_key(a=2, b="x"), content_key(a=1, b="y"), content_key(a=1)}
    assert len(keys) == 4
    assert content_key(b="x", a=1) == content_key(a=1, b="x")
    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    assert content_key(a=1, b="x") not in keys


def test_bad_documents_are_our_own_mistake(tmp_path: Path):
    empty = {"input_ids": np.zeros(0, np.int32), "loss_mask": np.zeros(0, np.uint8)}
    uneven = {"input_ids": np.zeros(2, np.int32), "loss_mask": np.zeros(3, np.uint8)}
    for document in (empty, uneven):
        with pytest.raises(AssertionError, match=r"f\.jsonl:4"):
            write_once(tmp_path / "x", lambda writer, document=document: writer.add(document, "f.jsonl", 4))


def test_opening_loads_neither_torch_nor_datasets(tmp_path: Path):
    write_once(tmp_path / "x", fill_with([3, 4]))
    code = (
        "import sys; from trainer.data.rows import RowSet; from trainer.data.cache import TokenRows;"
        "import trainer.data.batches, trainer.data.tokenizing, trainer.data.streaming, collators.options;"
        f"rows = RowSet([TokenRows({str(tmp_path / 'x')!r})], capacity=8); rows.documents(0);"
        "sys.exit(bool({'torch', 'datasets', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=Path(cache.__file__).parents[2]
        ).returncode
        == 0
    )
