"""Adafactor makes the reference's updates, reports the rates it finds, and goes on exactly."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of
from tests.trainer.optimizers.random_problem import (
    RATE,
    after,
    build,
    continued,
    difference,
    groups,
    same,
    weights,
)
from trainer.optimizers import CATALOG
from trainer.optimizers.adafactor import Adafactor, AdafactorSchedule, get_adafactor_schedule

OPTIONS: list[dict[str, Any]] = [
    {},
    {"beta1": 0.9},
    {"eps": (1e-3, 1e-3)},
    {"clip_threshold": 0.5},
    {"decay_rate": -0.5},
    {"scale_parameter": True},
    {"scale_parameter": True, "eps": (1e-30, 0.5)},
    {"relative_step": True},
    {"relative_step": True, "scale_parameter": True, "warmup_init": True},
]


def reference(found: dict[str, nn.Parameter], **options: Any) -> torch.optim.Optimizer:
    rate = None if options.get("relative_step") else RATE
    options = {"scale_parameter": False, "relative_step": False} | options
    made = transformers.Adafactor(groups(found), lr=rate, **options)
    for group in made.param_groups:
        group["lr"] = group["lr"] or 0.0  # the problem multiplies it, though relative steps go without
    return made


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_updates_are_the_references(options: dict[str, Any]) -> None:
    ours = after(partial(build, "adafactor", **options))
    assert difference(ours, after(partial(reference, **options))) <= 1e-6
    if options:
        assert difference(ours, after(partial(build, "adafactor"))) > 1e-4


def test_weights_of_16_bits_are_updated_in_fp32_as_in_the_reference() -> None:
    make = partial(build, "adafactor", scale_parameter=True)
    ours = after(make, dtype=torch.bfloat16)
    oracle = after(partial(reference, scale_parameter=True), dtype=torch.bfloat16)
    differing = sum((ours[name] != oracle[name]).sum().item() for name in ours)
    assert differing <= 0.001 * sum(weight.numel() for weight in ours.values())
    assert difference(ours, oracle) <= 2**-7  # the last bit of numbers from 1 to 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{"beta1": 0.9}, {"relative_step": True, "scale_parameter": True}], ids=str
)
def test_it_goes_on_exactly(tmp_path: Path, options: dict[str, Any], dtype: torch.dtype) -> None:
    assert same(*continued(partial(build, "adafactor", **options), tmp_path, dtype=dtype))


def test_the_rate_of_a_group_is_the_one_it_found() -> None:
    optimizer = build("adafactor", found := weights(), relative_step=True, warmup_init=True)
    for step in (1, 2, 3):
        for weight in found.values():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == [1e-6 * step] * 3


def test_the_schedule_reports_what_the_references_does() -> None:
    def rates(adafactor: Any, schedule: Any) -> list[list[float]]:
        found = weights()
        optimizer = adafactor(found.values(), warmup_init=True)
        reporter = schedule(optimizer, 0.25)
        reported = [reporter.get_last_lr()]
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            for weight in found.values():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
            reporter.step()
            reported.append([float(rate) for rate in reporter.get_last_lr()])
        return reported

    ours = rates(Adafactor, get_adafactor_schedule)
    assert ours[0] == [0.25]
    oracle = rates(transformers.Adafactor, transformers.optimization.get_adafactor_schedule)
    for one, other in zip(ours, oracle, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert issubclass(AdafactorSchedule, torch.optim.lr_scheduler.LambdaLR)


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"lr": 0.1}, "lr: relative_step finds it"),
        ({"relative_step": False}, "lr: it is needed"),
        ({"lr": 0.1, "relative_step": False, "warmup_init": True}, "warmup_init: it is for relative_step"),
    ],
)
def test_arguments_that_contradict_each_other(arguments: dict[str, Any], start: str) -> None:
    with pytest.raises(ValueError, match=start):
        Adafactor(weights().values(), **arguments)


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"eps": [1e-30]}, r"eps: two numbers, 0 or more, are wanted; \[1e-30\] was given"),
        ({"clip_threshold": 0}, "clip_threshold: more than 0 is wanted, 0.0 was given"),
        ({"decay_rate": 0.8}, "decay_rate: less than 0 is wanted"),
        ({"beta1": 1}, "beta1: from 0 to below 1 is wanted"),
        ({"warmup_init": True}, "warmup_init: it is for relative_step"),
        ({"relative_step": True, "layer_decay": 0.9}, "layer_decay: relative_step finds one rate for all"),
        (
            {"relative_step": True, "groups": {"head": {"pattern": "lm_head.*", "learning_rate": 0.1}}},
            "groups.head.learning_rate: relative_step finds one rate for all",
        ),
    ],
    ids=str,
)
def test_options_that_cannot_hold(options: dict[str, Any], start: str) -> None:
    with pytest.raises(ConfigError, match=start):
        decode(options_of(CATALOG, "adafactor", "optimizer.name"), options)


def test_the_state_is_hardly_more_than_nothing() -> None:
    for options, wanted in (({}, 0.02), ({"beta1": 0.9}, 1.02)):
        decoded = decode(options_of(CATALOG, "adafactor", "optimizer.name"), options)
        assert decoded.state_tensors == wanted
    weight = nn.Parameter(torch.ones(128, 256))
    optimizer = Adafactor([weight], lr=0.1, relative_step=False, beta1=0.9)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(value.numel() for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    assert weight.numel() < kept <= 1.02 * weight.numel()
