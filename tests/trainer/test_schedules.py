"""Every schedule at every step, against the reference's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from conf.plugins import options_of, thing_of
from trainer.schedules import CATALOG, Constant, Cosine, Warmup, warmup_steps

STEPS = 37

ORACLES = {
    "constant": lambda optimizer, warmup, total, options: transformers.get_constant_schedule(optimizer),
    "constant_with_warmup": lambda optimizer, warmup, total, options: (
        transformers.get_constant_schedule_with_warmup(optimizer, warmup)
    ),
    "linear": lambda optimizer, warmup, total, options: transformers.get_linear_schedule_with_warmup(
        optimizer, warmup, total
    ),
    "cosine": lambda optimizer, warmup, total, options: transformers.get_cosine_schedule_with_warmup(
        optimizer, warmup, total, options.get("num_cycles", 0.5)
    ),
}


def oracle(name: str, warmup: int, options: dict[str, Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = ORACLES[name](optimizer, warmup, STEPS, options)
    rates = []
    for _ in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 10, STEPS])
@pytest.mark.parametrize("name", CATALOG)
def test_every_step_equals_the_reference(name: str, warmup: int) -> None:
    given: dict[str, Any] = {"warmup_steps": warmup} if name != "constant" else {}
    options = options_of(CATALOG, name, "schedule")(**given)
    factor = thing_of(CATALOG, name, "schedule")(options, max_steps=STEPS)
    assert [factor(step) for step in range(STEPS)] == pytest.approx(
        oracle(name, warmup, given), rel=1e-12, abs=1e-15
    )


def test_several_waves_equal_the_reference() -> None:
    given = {"num_cycles": 2.5}
    factor = thing_of(CATALOG, "cosine", "schedule")(Cosine(warmup_steps=4, **given), max_steps=STEPS)
    assert [factor(step) for step in range(STEPS)] == pytest.approx(
        oracle("cosine", 4, given), rel=1e-12, abs=1e-15
    )


def test_every_schedule_has_an_oracle() -> None:
    assert ORACLES.keys() == CATALOG.keys()


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (Constant(), 0),
        (Warmup(), 0),
        (Warmup(warmup_steps=7), 7),
        (Warmup(warmup_steps=0.1), 11),
        (Warmup(warmup_ratio=0.1), 11),
        (Warmup(warmup_ratio=0.0), 0),
        (Warmup(warmup_ratio=1.0), 101),
        (Cosine(warmup_ratio=0.001), 1),
    ],
)
def test_warmup_counts_steps_or_a_share_rounded_up(options: Constant | Warmup, steps: int) -> None:
    assert warmup_steps(options, 101) == steps


def test_the_reference_agrees_on_a_share() -> None:
    arguments = transformers.TrainingArguments(output_dir="unused", warmup_steps=0.1, use_cpu=True)
    assert arguments.get_warmup_steps(101) == warmup_steps(Warmup(warmup_steps=0.1), 101)


def test_a_schedule_ends_at_zero_and_never_below() -> None:
    for name in ("linear", "cosine"):
        factor = thing_of(CATALOG, name, "schedule")(options_of(CATALOG, name, "schedule")(), max_steps=STEPS)
        assert factor(STEPS) == pytest.approx(0, abs=1e-15)
        assert factor(STEPS + 5) >= 0
