"""Torch's optimizers get the given options; AnyPrecision AdamW is AdamW, and better in bf16."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of
from tests.trainer.optimizers.random_problem import (
    RATE,
    after,
    build,
    difference,
    drive,
    groups,
    same,
    weights,
)
from trainer.optimizers import CATALOG

ADAM = [
    ({}, {}),
    ({"adam_beta1": 0.8}, {"betas": (0.8, 0.999)}),
    ({"adam_beta2": 0.9}, {"betas": (0.9, 0.9)}),
    ({"adam_epsilon": 0.1}, {"eps": 0.1}),
]
FAMILY: dict[str, tuple[Any, list[tuple[dict[str, Any], dict[str, Any]]]]] = {
    "adamw_torch": (torch.optim.AdamW, ADAM),
    "adamw_torch_fused": (partial(torch.optim.AdamW, fused=True), ADAM),
    "adamw_anyprecision": (torch.optim.AdamW, ADAM),
    "sgd": (
        torch.optim.SGD,
        [
            ({}, {}),
            ({"momentum": 0.9}, {"momentum": 0.9}),
            ({"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "dampening": 0.5}),
            ({"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
        ],
    ),
    "adagrad": (
        torch.optim.Adagrad,
        [
            ({}, {}),
            ({"lr_decay": 0.1}, {"lr_decay": 0.1}),
            ({"initial_accumulator_value": 0.5}, {"initial_accumulator_value": 0.5}),
            ({"eps": 0.1}, {"eps": 0.1}),
        ],
    ),
    "rmsprop": (
        torch.optim.RMSprop,
        [
            ({}, {}),
            ({"alpha": 0.9}, {"alpha": 0.9}),
            ({"momentum": 0.5}, {"momentum": 0.5}),
            ({"eps": 0.1}, {"eps": 0.1}),
            ({"centered": True}, {"centered": True}),
        ],
    ),
    "adafactor_torch": (
        torch.optim.Adafactor,
        [
            ({}, {}),
            ({"beta2_decay": -0.5}, {"beta2_decay": -0.5}),
            ({"eps1": 1.5}, {"eps": (1.5, 1e-3)}),
            ({"eps2": 1.5}, {"eps": (None, 1.5)}),
            ({"d": 1.2, "beta2_decay": -0.1}, {"d": 1.2, "beta2_decay": -0.1}),
        ],
    ),
}
CASES = [(name, kind, *case) for name, (kind, cases) in FAMILY.items() for case in cases]


@pytest.mark.parametrize(("name", "kind", "options", "arguments"), CASES)
def test_it_is_torchs_with_the_given_options(
    name: str, kind: Any, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    ours = after(lambda weights: build(name, weights, **options))
    theirs = after(lambda weights: kind(groups(weights), lr=RATE, **arguments))
    assert difference(ours, theirs) <= 1e-6
    if options:
        assert difference(ours, after(lambda weights: build(name, weights))) > 1e-5


def test_kahan_summation_brings_bf16_near_fp32() -> None:
    def trained(dtype: torch.dtype, **options: Any) -> torch.Tensor:
        found = weights(torch.bfloat16)
        wide = {name: torch.nn.Parameter(weight.detach().to(dtype)) for name, weight in found.items()}
        drive(build("adamw_anyprecision", wide, learning_rate=1e-4, **options), wide, range(20))
        return wide["wide"].detach().float()

    exact, plain = trained(torch.float32), trained(torch.bfloat16)
    compensated = trained(torch.bfloat16, use_kahan_summation=True)
    assert (compensated - exact).abs().mean() < (plain - exact).abs().mean()
    half_an_ulp = exact.abs() * 2**-8 + 1e-5
    assert ((compensated - exact).abs() <= half_an_ulp).all()
    assert ((plain - exact).abs() <= half_an_ulp).float().mean() < 0.9


@pytest.mark.parametrize(
    ("options", "types"),
    [
        ({"momentum_dtype": "bfloat16"}, [torch.bfloat16, torch.float32]),
        ({"variance_dtype": "bfloat16"}, [torch.float32, torch.bfloat16]),
        ({"use_kahan_summation": True}, [torch.float32, torch.float32, torch.bfloat16]),
        (
            {"use_kahan_summation": True, "compensation_buffer_dtype": "float32"},
            [torch.float32, torch.float32, torch.float32],
        ),
    ],
)
def test_states_have_the_types_asked_for(options: dict[str, Any], types: list[torch.dtype]) -> None:
    kept = []

    def make(found: Any) -> Any:
        kept.append(build("adamw_anyprecision", found, **options))
        return kept[-1]

    found = after(make)
    state = kept[0].state[found["wide"]]
    assert [value.dtype for value in state.values() if isinstance(value, torch.Tensor)] == types
    assert not same(found, after(lambda weights: build("adamw_anyprecision", weights)))


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("sgd", {"dampening": 0.5}, "dampening: it needs a momentum above 0"),
        ("sgd", {"momentum": 0.9, "dampening": 0.5, "nesterov": True}, "dampening: nesterov has none"),
        ("sgd", {"nesterov": True}, "nesterov: it needs a momentum above 0"),
        ("adagrad", {"eps": -1}, "eps: 0 or more is wanted, -1"),
        ("rmsprop", {"alpha": 1}, "alpha: from 0 to below 1 is wanted, 1"),
        ("adafactor_torch", {"beta2_decay": 0.1}, "beta2_decay: 0 or less is wanted, 0.1"),
        ("adafactor_torch", {"d": 0.5}, "d: 1 or more is wanted, 0.5"),
        ("muon", {"ns_steps": 0}, "ns_steps: from 1 to 99 is wanted, 0"),
        ("muon", {"ns_coefficients": [1, 2]}, "ns_coefficients: three numbers are wanted, 2"),
        ("adamw_anyprecision", {"momentum_dtype": "int8"}, "momentum_dtype: 'int8' is none of its values"),
        (
            "adamw_anyprecision",
            {"compensation_buffer_dtype": "float32"},
            "compensation_buffer_dtype: it is for use_kahan_summation",
        ),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        decode(options_of(CATALOG, name, "optimizer.name"), options)
