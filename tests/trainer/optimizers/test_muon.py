"""Muon steps over the targeted matrices and AdamW over the rest, as one optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainer.optimizers.random_problem import (
    RATE,
    Weights,
    after,
    build,
    difference,
    drive,
    groups,
    same,
    weights,
)

ORTHOGONAL = {"adjust_lr_fn": "match_rms_adamw"}


class Both:
    """The oracle: torch's two optimizers, side by side."""

    def __init__(self, found: Weights, muon: dict[str, Any], adam: dict[str, Any]):
        hidden, *others = groups(found)
        arguments = {**ORTHOGONAL, **muon}
        self.parts = [
            torch.optim.Muon([hidden], lr=RATE, **arguments),
            torch.optim.AdamW(others, lr=RATE, **adam),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()


CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {}, {}),
    ({"momentum": 0.5}, {"momentum": 0.5}, {}),
    ({"nesterov": False}, {"nesterov": False}, {}),
    ({"ns_steps": 2}, {"ns_steps": 2}, {}),
    ({"ns_coefficients": [2.0, -1.5, 0.5]}, {"ns_coefficients": (2.0, -1.5, 0.5)}, {}),
    ({"adjust_lr_fn": "original"}, {"adjust_lr_fn": "original"}, {}),
    ({"adam_beta1": 0.8, "adam_beta2": 0.9}, {}, {"betas": (0.8, 0.9)}),
    ({"adam_epsilon": 0.1}, {}, {"eps": 0.1}),
]


@pytest.mark.parametrize(("options", "muon", "adam"), CASES)
def test_it_is_torchs_two(options: dict[str, Any], muon: dict[str, Any], adam: dict[str, Any]) -> None:
    ours = after(lambda found: build("muon", found, **options))
    assert difference(ours, after(lambda found: Both(found, muon, adam))) <= 1e-6
    if options:
        assert difference(ours, after(lambda found: build("muon", found))) > 1e-5


def test_only_targeted_matrices_are_made_orthogonal() -> None:
    found = weights()
    optimizer = build("muon", found)
    drive(optimizer, found, range(1))
    states = {name: {*optimizer.state[weight]} for name, weight in found.items()}
    adam = {"step", "exp_avg", "exp_avg_sq"}
    assert states == {
        "wide": {"momentum_buffer"},
        "tall": {"momentum_buffer"},
        "embedding": adam,
        "norm": adam,
    }


def test_either_kind_of_weights_may_be_absent() -> None:
    found = weights()
    for members in (groups(found)[:1], groups(found)[1:]):
        make = type(build("muon", found))
        optimizer = make(members, muon={"lr": RATE, **ORTHOGONAL}, adam={"lr": RATE})
        before = {name: weight.clone() for name, weight in found.items()}
        drive(optimizer, found, range(1))
        moved = {name for name, weight in found.items() if not torch.equal(weight, before[name])}
        assert moved == {name for group in members for name in group["param_names"]}


def test_torchs_own_state_dict_brings_it_back() -> None:
    whole = after(lambda found: build("muon", found), steps=6)
    found = weights()
    optimizer = build("muon", found)
    drive(optimizer, found, range(3))
    again = build("muon", found)
    again.load_state_dict(optimizer.state_dict())
    drive(again, found, range(3, 6))
    assert same(whole, found)
