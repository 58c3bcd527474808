"""What the process holds while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from callbacks import MemoryCallback, memory
from tests.trainer.saved_runs import untimed
from tests.trainer.small_program import trained, weights
from trainer.reports import is_timing
from trainer.state import TrainerControl, TrainerState

MIB = 2**20


def test_each_training_line_tells_and_the_end_sums_up(tmp_path: Path, capsys: Any) -> None:
    trainer = trained(tmp_path, parts={"callbacks": [MemoryCallback()]})
    lines = trainer.state.log_history
    for line in lines:
        assert (line.keys() >= {"cpu_mem_rss", "cpu_mem_peak"}) == ("loss" in line)
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "memory, highest of each"
    assert [row.split()[0] for row in table[1:]] == ["cpu_mem_rss", "cpu_mem_peak"]
    assert all(row.endswith(" MiB") for row in table[1:])
    without = trained(tmp_path)
    assert torch.equal(weights(trainer), weights(without))
    assert untimed(lines) == untimed(without.state.log_history)


def test_the_resident_set_is_what_the_system_says() -> None:
    assert memory._of_cpu()["cpu_mem_rss"] == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MIB)
    block = torch.ones(64 * MIB // 4)
    held = memory._of_cpu()
    assert held["cpu_mem_rss"] == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MIB)
    assert held["cpu_mem_peak"] >= held["cpu_mem_rss"] >= block.nbytes


def test_a_system_without_a_resident_set_tells_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATM", Path("/nowhere"))
    assert memory._of_cpu().keys() == {"cpu_mem_peak"}


def test_an_accelerators_peak_survives_being_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([30, 10])
    monkeypatch.setattr(memory, "_of_accelerator", lambda device: {"gpu_mem_peak": next(readings)})
    callback = MemoryCallback()
    told: Any = (None, TrainerState(), TrainerControl())
    callback.on_train_begin(*told)
    seen = [callback.log_values(*told, logs={"loss": 1.0}, model=nn.Linear(1, 1)) for _ in range(2)]
    assert [values["gpu_mem_peak"] for values in seen] == [30, 30]


def test_all_of_them_depend_on_the_machine() -> None:
    names = ("cpu_mem_rss", "cpu_mem_peak", "gpu_mem_allocated", "gpu_mem_reserved", "gpu_mem_peak")
    assert all(map(is_timing, names))
