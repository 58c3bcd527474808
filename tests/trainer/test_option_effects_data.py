"""What the options of data and their loading change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.data
from torch import Tensor

from conf.decode import decode
from tests.trainer.small_program import program, rows, seen_rows, trained
from trainer.build import loader_options
from trainer.config import RunConfig
from trainer.methods.data import DataMethods
from trainer.ranks.ranks import Ranks


class Signed(Sequence[Any]):
    """Rows that say which process made them."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, row: Any) -> dict[str, Any]:
        if not 0 <= row < 24:
            raise IndexError(row)
        return {"input_ids": [1] * 4, "labels": [0] * 4, "process": os.getpid()}


@pytest.fixture
def makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``makers(**given)``: the processes that made the batches of a training, in order."""

    def ran(**given: Any) -> list[int]:
        seen: list[int] = []

        def heard(self: Any, batch: Any) -> Any:
            if "process" in batch:
                seen.append(int(batch.pop("process")[0]))
            return batch

        def collate(batch: Sequence[Any]) -> dict[str, Tensor]:
            return {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}

        monkeypatch.setattr(Ranks, "to_device", heard)
        parts = {"train_dataset": Signed(), "data_collator": collate}
        trained(tmp_path, parts=parts, remove_unused_columns=False, **given)
        return seen

    return ran


def test_workers_make_the_batches(makers: Any) -> None:
    assert set(makers()) == {os.getpid()}
    workers = makers(dataloader_num_workers=2)
    assert len(workers) == 3
    assert len(set(workers)) == 2
    assert os.getpid() not in workers


def test_workers_live_on(makers: Any) -> None:
    """Two epochs: by new workers each, or by the same."""
    given = {"dataloader_num_workers": 1, "num_train_epochs": 2}
    for persistent, processes in ((False, 2), (True, 1)):
        assert len(set(makers(dataloader_persistent_workers=persistent, **given))) == processes


def test_how_far_workers_are_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    whole = torch.utils.data.DataLoader.__init__

    def noting(self: Any, *args: Any, **options: Any) -> None:
        asked.append(options.get("prefetch_factor"))
        whole(self, *args, **options)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", noting)
    for factor in (None, 5):
        trained(tmp_path, dataloader_num_workers=1, dataloader_prefetch_factor=factor, max_steps=1)
    assert asked == [2, 5]


def test_a_short_last_step_is_left_out(tmp_path: Path) -> None:
    for drop, sizes in ((False, [8, 8, 4]), (True, [8, 8])):
        batches = seen_rows(tmp_path, rows(20), dataloader_drop_last=drop)
        assert [len(batch) for batch in batches] == sizes


def test_memory_is_pinned_for_accelerators(tmp_path: Path, capsys: Any) -> None:
    """Through both doors; on a CPU, where nothing is pinned, asking for it is answered."""
    for name in ("cuda", "cpu"):
        ranks: Any = SimpleNamespace(device=torch.device(name))
        for asked in (True, False):
            config = decode(RunConfig, {"data": {"dataloader_pin_memory": asked}})
            pinned = loader_options(config, ranks)["pin_memory"]
            owner: Any = SimpleNamespace(config=config, ranks=ranks)
            assert pinned == DataMethods._torch_loading(owner)["pin_memory"] == (asked and name == "cuda")
    said = "data.dataloader_pin_memory: true has no effect on a CPU"
    for given, times in (
        ({"dataloader_pin_memory": True}, 1),
        ({"dataloader_pin_memory": False}, 0),
        ({}, 0),
    ):
        capsys.readouterr()
        program(tmp_path, **given)
        assert capsys.readouterr().err.count(said.removeprefix("data.")) == times


def test_columns_that_the_model_does_not_take(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def collate(batch: Sequence[Any]) -> dict[str, Tensor]:
        seen.append(set(batch[0]))
        return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}

    dataset = [{**row, "weather": "fine"} for row in rows()]
    for remove in (True, False):
        parts = {"train_dataset": dataset, "data_collator": collate}
        trained(tmp_path, parts=parts, remove_unused_columns=remove, max_steps=1)
    assert seen[0] == {"input_ids", "labels"}
    assert seen[-1] == {"input_ids", "labels", "weather"}


def test_columns_that_are_labels(tmp_path: Path) -> None:
    """What is kept of a prediction, and whether rows without the others count as labelled."""
    dataset = [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows(4)]
    found = {
        names: program(tmp_path, label_names=names and list(names)).predict(dataset).label_ids
        for names in (None, ("input_ids",))
    }
    assert found[None].tolist() == [row["labels"] for row in dataset]
    assert found["input_ids",].tolist() == [row["input_ids"] for row in dataset]


@pytest.mark.parametrize(
    ("given", "column"),
    [
        ({}, None),
        ({"group_by_length": True}, "length"),
        ({"sortish_sampler": True}, "length"),
        ({"group_by_length": True, "length_column_name": "size"}, "size"),
    ],
    ids=str,
)
def test_rows_of_similar_length_go_together(
    given: dict[str, Any], column: str | None, tmp_path: Path
) -> None:
    """Of rows that are either short or long, by the column that counts, few micro-batches mix both."""
    dataset: list[dict[str, Any]] = [
        {**row, "length": 1 + 98 * (number % 2), "size": 1 + 98 * (number // 2 % 2)}
        for number, row in enumerate(rows(64))
    ]
    mixed = dict.fromkeys(("length", "size"), 0)

    def collate(batch: Sequence[Any]) -> dict[str, Tensor]:
        for name in mixed:
            mixed[name] += len({row[name] for row in batch}) > 1
        return {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}

    parts = {"train_dataset": dataset, "data_collator": collate}
    given = {**given, "remove_unused_columns": False, "per_device_train_batch_size": 8}
    trained(tmp_path, parts=parts, **given)
    for name, count in mixed.items():
        assert (count <= 5) == (name == column), mixed
