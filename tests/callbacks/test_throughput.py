"""Rates of steps: counted exactly, with a clock that is the test's own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from callbacks import ThroughputCallback, throughput
from tests.trainer.saved_runs import untimed
from tests.trainer.small_program import program, trained, weights
from trainer.reports import is_timing
from trainer.state import TrainerControl, TrainerState

NAMES = {
    "tokens_per_second",
    "samples_per_second",
    "steps_per_second",
    "tflops_per_second",
    "model_flops_utilization",
}


class Clock:
    """Says what it is set to."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


def test_rates_are_counts_over_the_seconds_of_the_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    callback = ThroughputCallback(peak_tflops=2.0)
    args, state = SimpleNamespace(world_size=4), TrainerState(num_input_tokens_seen=1000, total_flos=5e12)
    told: Any = (args, state, TrainerControl())
    given: dict[str, Any] = {"plan": SimpleNamespace(rows_per_step=6), "model": None}
    callback.on_train_begin(*told, **given)
    for window in range(2):
        for _ in range(3):
            clock.now += 50  # evaluating, saving, whatever
            callback.on_step_begin(*told, **given)
            clock.now += 0.5
            state.num_input_tokens_seen += 20
            state.total_flos += 1e12
            callback.on_step_end(*told, **given)
        assert callback.log_values(*told, logs={"eval_loss": 1.0}, **given) == {}
        rates = callback.log_values(*told, logs={"loss": 1.0}, **given)
        assert rates == pytest.approx(
            {
                "tokens_per_second": 40,
                "samples_per_second": 12,
                "steps_per_second": 2,
                "tflops_per_second": 2,
                "model_flops_utilization": 0.25,
            }
        ), window
    assert callback.log_values(*told, logs={"loss": 1.0}, **given) == {}, "no step was made since"


def test_a_training_logs_them_and_is_the_same_training(tmp_path: Path) -> None:
    with_it = trained(tmp_path, parts={"callbacks": [ThroughputCallback()]})
    without = trained(tmp_path)
    assert torch.equal(weights(with_it), weights(without))
    lines = [line for line in with_it.state.log_history if "loss" in line]
    assert len(lines) == 3
    told = NAMES - {"tflops_per_second", "model_flops_utilization"}  # this model tells no operations
    for line in lines:
        assert line.keys() & NAMES == told
        assert all(line[name] > 0 for name in told)
        assert line["samples_per_second"] == pytest.approx(8 * line["steps_per_second"])
        assert line["tokens_per_second"] == pytest.approx(32 * line["steps_per_second"])
    assert untimed(with_it.state.log_history) == untimed(without.state.log_history)


def test_the_share_of_the_peak_is_that_of_the_operations_counted(tmp_path: Path) -> None:
    made = program(tmp_path, parts={"callbacks": [ThroughputCallback(peak_tflops=3.0)]})
    made.model.floating_point_ops = lambda inputs: 10**9
    made.train()
    for line in (line for line in made.state.log_history if "loss" in line):
        assert line["tflops_per_second"] == pytest.approx(1e-3 * line["steps_per_second"])
        assert line["model_flops_utilization"] == pytest.approx(line["tflops_per_second"] / 3)


def test_all_of_them_are_timings() -> None:
    assert all(map(is_timing, NAMES))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_peak_is_measured_in_the_type_of_the_training(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, int]] = []

    def seconds(factor: torch.Tensor) -> float:
        seen.append((factor.dtype, len(factor)))
        return 2 * len(factor) ** 3 / 1e10 if len(factor) < 1024 else 2 * len(factor) ** 3 / 4e10

    monkeypatch.setattr(throughput, "_seconds_of_product", seconds)
    args = SimpleNamespace(bf16=precision == "bf16", fp16=False)
    model, state = nn.Linear(2, 2), torch.get_rng_state()
    assert throughput.measured_peak(args, model) == pytest.approx(4e10)
    assert torch.equal(torch.get_rng_state(), state)
    assert {dtype for dtype, _ in seen} == {torch.bfloat16 if args.bf16 else torch.float32}
    assert seen[-1][1] == 1024, "the first size that takes long enough"


def test_a_product_takes_time() -> None:
    assert throughput._seconds_of_product(torch.rand(64, 64)) > 0


def test_a_peak_is_more_than_nothing() -> None:
    with pytest.raises(ValueError, match=r"^peak_tflops: more than 0 is wanted, 0 was given\.$"):
        ThroughputCallback(peak_tflops=0)
