"""Memory of stages: real allocations on the CPU, a stand-in for torch's counts of a GPU."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_utils import TrainerMemoryTracker

from conf.errors import ConfigError
from trainer import memory
from trainer.memory import MemoryMetrics

MB = 2**20


def hold(megabytes: int) -> bytearray:
    return bytearray(b"x") * (megabytes * MB)  # written to, so that it is resident


def test_what_is_kept_and_what_was_only_passing_by() -> None:
    metrics = MemoryMetrics(enabled=True)
    with metrics.stage("train"):
        kept = hold(96)
        passing = hold(192)
        time.sleep(5 * memory._SECONDS_BETWEEN)
        del passing
    told = metrics.metrics("train")
    assert len(kept) == 96 * MB
    assert set(told) == {"train_mem_cpu_alloc_delta", "train_mem_cpu_peaked_delta"}
    assert told["train_mem_cpu_alloc_delta"] == pytest.approx(96 * MB, abs=24 * MB)
    assert told["train_mem_cpu_peaked_delta"] == pytest.approx(192 * MB, abs=24 * MB)
    assert metrics.metrics("train") == {}, "each measurement is told once"


class Reference:
    """The reference's tracker, whose stages go by the names of the methods that call it."""

    def __init__(self) -> None:
        self.tracker = TrainerMemoryTracker(skip_memory_metrics=False)
        self.tracker.start()
        self.tracker.stop_and_update_metrics()

    def train(self) -> dict[str, int]:
        metrics: dict[str, int] = {}
        self.tracker.start()
        self.tracker.stop_and_update_metrics(metrics)
        return metrics

    def evaluate(self) -> dict[str, int]:
        metrics: dict[str, int] = {}
        self.tracker.start()
        self.tracker.stop_and_update_metrics(metrics)
        return metrics


def test_names_and_their_order_of_appearance_are_the_reference_s() -> None:
    reference, metrics = Reference(), MemoryMetrics(enabled=True)
    for stage in ("init", "train", "eval"):
        with metrics.stage(stage):
            pass
    assert metrics.metrics("train").keys() == reference.train().keys()
    assert metrics.metrics("eval").keys() == reference.evaluate().keys()


def test_an_evaluation_in_the_training_is_the_training_s() -> None:
    metrics = MemoryMetrics(enabled=True)
    with metrics.stage("init"):
        pass
    with metrics.stage("train"):
        with metrics.stage("eval"):
            kept = hold(64)
        assert metrics.metrics("eval") == {}
        assert metrics.metrics("init") == {}
    assert metrics.metrics("eval") == {}
    assert metrics.metrics("train")["train_mem_cpu_alloc_delta"] == pytest.approx(len(kept), abs=24 * MB)


def test_a_stage_that_raises_ends_its_thread_and_is_not_told() -> None:
    metrics = MemoryMetrics(enabled=True)
    with pytest.raises(KeyError), metrics.stage("train"):
        raise KeyError
    assert not [thread for thread in threading.enumerate() if thread.name == "memory peak"]
    assert metrics.metrics("train") == {}
    with metrics.stage("train"):
        pass
    assert metrics.metrics("train")


def test_switched_off_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(memory.gc, "collect", lambda: pytest.fail("it collects"))
    metrics = MemoryMetrics(enabled=False)
    with metrics.stage("train"):
        assert not [thread for thread in threading.enumerate() if thread.name == "memory peak"]
    assert metrics.metrics("train") == {}


def test_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ConfigError) as error:
        MemoryMetrics(enabled=True)
    assert str(error.value) == (
        "logging.skip_memory_metrics: false needs psutil, which is not installed; `pip install psutil`, or "
        "leave it true."
    )


def test_the_gpu_is_measured_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(now=100, peak=900)

    def reset() -> None:
        gpu.peak = gpu.now

    for name, function in {
        "is_available": lambda: True,
        "memory_allocated": lambda: gpu.now,
        "max_memory_allocated": lambda: gpu.peak,
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)
    metrics = MemoryMetrics(enabled=True)
    with metrics.stage("init"):
        gpu.now = gpu.peak = 400
    with metrics.stage("train"):
        gpu.peak, gpu.now = 700, 300
    told = {name: value for name, value in metrics.metrics("train").items() if "gpu" in name}
    assert told == {
        "init_mem_gpu_alloc_delta": 300,
        "init_mem_gpu_peaked_delta": 0,
        "train_mem_gpu_alloc_delta": -100,
        "train_mem_gpu_peaked_delta": 400,
        "before_init_mem_gpu": 100,
    }
