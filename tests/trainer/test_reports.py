"""Printed and saved results, compared with the reference's functions."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import trainer_pt_utils as reference
from transformers.trainer_utils import speed_metrics as reference_speed_metrics

from trainer import reports

METRICS = {
    "train_runtime": 4529.987,
    "eval_runtime": 0.0,
    "total_flos": 3.7e15,
    "init_mem_cpu_alloc_delta": 3 * 2**20 + 5,
    "train_mem_gpu_peaked_delta": 0,
    "eval_mem_cpu_alloc_delta": -(2**21),
    "before_init_mem_cpu": 2**30,
    "train_samples_per_second": 12.34567,
    "train_loss": 1.23456789,
    "eval_loss": math.nan,
    "epoch": 3.0,
    "train_samples": 1000,
    "metric_name": "eval_loss",
}


def test_the_readable_form_is_the_reference_s() -> None:
    ours, theirs = reports.metrics_format(METRICS), reference.metrics_format(METRICS)
    assert ours.keys() == theirs.keys()
    assert {k: str(v) for k, v in ours.items()} == {k: str(v) for k, v in theirs.items()}
    assert ours["train_runtime"] == "1:15:29.98"
    assert ours["total_flos"] == "3445893GF"
    assert ours["init_mem_cpu_alloc_delta"] == "3MB"


def test_the_table_is_the_reference_s(capsys: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(is_world_process_zero=lambda: True)
    reference.log_metrics(trainer, "train", METRICS)
    wanted = capsys.readouterr().out
    reports.log_metrics("train", METRICS)
    assert capsys.readouterr().out == wanted
    reports.log_metrics("train", METRICS, is_main=False)
    assert capsys.readouterr().out == ""
    reports.log_metrics("empty", {})
    assert capsys.readouterr().out == "***** empty metrics *****\n"


def test_files_are_the_reference_s(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    trainer: Any = SimpleNamespace(
        is_world_process_zero=lambda: True, args=SimpleNamespace(output_dir=str(theirs))
    )
    calls: list[tuple[str, dict[str, Any], bool]] = [
        ("train", {"train_loss": 1.25, "epoch": 1.0}, True),
        ("eval", {"eval_loss": math.nan, "epoch": 2.0}, True),
        ("test", {"test_loss": math.inf}, False),
    ]
    for split, metrics, combined in calls:
        reports.save_metrics(ours, split, metrics, combined)
        reference.save_metrics(trainer, split, metrics, combined)
    files = {path.name: path.read_text() for path in theirs.iterdir()}
    assert {path.name: path.read_text() for path in ours.iterdir()} == files
    assert files.keys() == {f"{name}_results.json" for name in ("train", "eval", "test", "all")}
    assert json.loads(files["all_results.json"])["epoch"] == 2.0


def test_a_failed_write_leaves_the_old_results(tmp_path: Path) -> None:
    reports.save_metrics(tmp_path, "eval", {"eval_loss": 1.0})
    with pytest.raises(TypeError):
        reports.save_metrics(tmp_path, "eval", {"eval_loss": object()})
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {"eval_loss": 1.0}
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"eval_loss": 1.0}


@pytest.mark.parametrize(
    "counts", [{}, {"num_samples": 7}, {"num_samples": 1000, "num_steps": 31, "num_tokens": 77_777}]
)
@pytest.mark.parametrize("seconds", [0.0, 0.0123456, 17.7777777])
def test_speeds_are_the_reference_s(
    counts: dict[str, int], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0 + seconds)
    assert reports.speed_metrics("eval", 1000.0, **counts) == reference_speed_metrics(
        "eval", 1000.0, **counts
    )


@pytest.mark.parametrize(
    "name",
    [
        "train_runtime",
        "eval_samples_per_second",
        "train_tokens_per_second",
        "init_mem_cpu_alloc_delta",
        "before_init_mem_gpu",
    ],
)
def test_timings(name: str) -> None:
    assert reports.is_timing(name)


@pytest.mark.parametrize(
    "name", ["loss", "eval_loss", "tokens_slots", "total_flos", "learning_rate", "epoch"]
)
def test_what_is_no_timing(name: str) -> None:
    assert not reports.is_timing(name)
