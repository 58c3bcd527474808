"""Optimizers with states of few bits are the packages' own, with the given options."""

from __future__ import annotations

from functools import partial
from typing import Any

import bitsandbytes.optim
import pytest
import torch
import torchao.optim

from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of
from tests.trainer.optimizers.random_problem import RATE, after, build, difference, drive, groups, weights
from trainer.optimizers import CATALOG

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

Case = tuple[dict[str, Any], dict[str, Any]]


class Parts:
    """The oracle: one optimizer of the package for embeddings, which keep 32 bits, and one for the rest."""

    def __init__(self, kind: Any, found: Any, *, optim_bits: int, **arguments: Any):
        hidden, embedding, vectors = groups(found)
        self.parts = [
            kind([hidden, vectors], lr=RATE, optim_bits=optim_bits, **arguments),
            kind([embedding], lr=RATE, optim_bits=32, **arguments),
        ]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()


def alike(**values: Any) -> Case:
    """Options that the package calls by the same names."""
    return values, values


ADAM: list[Case] = [
    alike(),
    ({"adam_beta1": 0.8}, {"betas": (0.8, 0.999)}),
    ({"adam_beta2": 0.9}, {"betas": (0.9, 0.9)}),
    ({"adam_epsilon": 0.1}, {"eps": 0.1}),
]
LION: list[Case] = [
    ({}, {"betas": (0.9, 0.999)}),
    ({"adam_beta1": 0.5}, {"betas": (0.5, 0.999)}),
    ({"adam_beta2": 0.5}, {"betas": (0.9, 0.5)}),
]
ADEMAMIX: list[Case] = [
    alike(),
    ({"adam_beta1": 0.8, "adam_beta2": 0.9}, {"betas": (0.8, 0.9, 0.9999)}),
    ({"beta1": 0.8, "beta2": 0.9, "adam_beta1": 0.7}, {"betas": (0.8, 0.9, 0.9999)}),
    ({"beta3": 0.9}, {"betas": (0.9, 0.999, 0.9)}),
    ({"adam_epsilon": 0.1}, {"eps": 0.1}),
    alike(eps=0.1),
    alike(alpha=1.0),
    alike(t_alpha=20),
    alike(t_beta3=20),
]
RMSPROP = [alike(), alike(alpha=0.9), alike(eps=0.1)]
SMALL = [alike(min_8bit_size=64)]

BNB: dict[str, tuple[Any, int, list[Case]]] = {
    "adamw_bnb_8bit": (bitsandbytes.optim.AdamW, 8, ADAM + SMALL),
    "adamw_8bit": (bitsandbytes.optim.AdamW, 8, ADAM[:1]),
    "paged_adamw_32bit": (partial(bitsandbytes.optim.AdamW, is_paged=True), 32, ADAM),
    "paged_adamw_8bit": (partial(bitsandbytes.optim.AdamW, is_paged=True), 8, ADAM + SMALL),
    "lion_32bit": (bitsandbytes.optim.Lion, 32, LION),
    "lion_8bit": (bitsandbytes.optim.Lion, 8, LION),
    "paged_lion_32bit": (partial(bitsandbytes.optim.Lion, is_paged=True), 32, LION),
    "paged_lion_8bit": (partial(bitsandbytes.optim.Lion, is_paged=True), 8, LION),
    "ademamix": (bitsandbytes.optim.AdEMAMix, 32, ADEMAMIX),
    "ademamix_8bit": (bitsandbytes.optim.AdEMAMix, 8, ADEMAMIX + SMALL),
    "paged_ademamix_32bit": (partial(bitsandbytes.optim.AdEMAMix, is_paged=True), 32, ADEMAMIX),
    "paged_ademamix_8bit": (partial(bitsandbytes.optim.AdEMAMix, is_paged=True), 8, ADEMAMIX),
    "rmsprop_bnb": (bitsandbytes.optim.RMSprop, 32, RMSPROP),
    "rmsprop_bnb_32bit": (bitsandbytes.optim.RMSprop, 32, RMSPROP),
    "rmsprop_bnb_8bit": (bitsandbytes.optim.RMSprop, 8, RMSPROP + SMALL),
}
BNB_CASES = [(name, kind, bits, *case) for name, (kind, bits, cases) in BNB.items() for case in cases]
TORCHAO = {
    "adamw_torch_8bit": torchao.optim.AdamW8bit,
    "adamw_torch_4bit": partial(torchao.optim.AdamW4bit, block_size=256),
    "adamw_torch_fp8": torchao.optim.AdamWFp8,
}


@pytest.mark.parametrize(("name", "kind", "bits", "options", "arguments"), BNB_CASES)
def test_it_is_the_one_of_bitsandbytes(
    name: str, kind: Any, bits: int, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    ours = after(lambda found: build(name, found, **options))
    assert difference(ours, after(lambda found: Parts(kind, found, optim_bits=bits, **arguments))) <= 1e-6
    if options:
        assert difference(ours, after(lambda found: build(name, found))) > 1e-5


@pytest.mark.parametrize("name", BNB)
def test_states_have_the_bits_that_the_name_says(name: str) -> None:
    found = weights()
    optimizer = build(name, found)
    drive(optimizer, found, range(1))
    types = {key: optimizer.state[weight]["state1"].dtype for key, weight in found.items()}
    hidden = torch.uint8 if name.endswith("8bit") else torch.float32
    assert types == {"wide": hidden, "tall": hidden, "embedding": torch.float32, "norm": torch.float32}
    assert optimizer.is_paged == name.startswith("paged")


@pytest.mark.parametrize("name", TORCHAO)
@pytest.mark.parametrize(("options", "arguments"), [*ADAM, alike(block_size=64)])
def test_it_is_the_one_of_torchao(
    name: str, options: dict[str, Any], arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(lambda found: build(name, found, **options))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # it takes seconds
    theirs = after(lambda found: TORCHAO[name](groups(found), **{"lr": RATE, **arguments}))
    assert difference(ours, theirs) <= 1e-6
    if options:
        assert difference(ours, after(lambda found: build(name, found))) > 1e-5


@pytest.mark.parametrize("name", TORCHAO)
def test_updates_of_bf16_weights_are_rounded_by_chance_if_asked_to(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = after(lambda found: build(name, found, bf16_stochastic_round=True), dtype=torch.bfloat16)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # it takes seconds
    theirs = after(
        lambda found: TORCHAO[name](groups(found), lr=RATE, bf16_stochastic_round=True), dtype=torch.bfloat16
    )
    assert difference(ours, theirs) == 0
    assert difference(ours, after(lambda found: build(name, found), dtype=torch.bfloat16)) > 1e-4


def test_learning_rates_stay_plain_numbers() -> None:
    found = weights()
    optimizer = build("adamw_torch_8bit", found, learning_rate=5e-5)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-5, 5e-5, 2 * RATE]
    drive(optimizer, found, range(4))
    assert [group["lr"] for group in optimizer.param_groups] == [
        rate * 0.85 for rate in (5e-5, 5e-5, 2 * RATE)
    ]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("adamw_8bit", {"min_8bit_size": -1}, "min_8bit_size: 0 or more is wanted, -1"),
        ("paged_adamw_32bit", {"min_8bit_size": 1}, "min_8bit_size: no such key"),
        ("rmsprop_bnb", {"momentum": 0.9}, "momentum: no such key"),
        ("rmsprop_bnb", {"alpha": 0}, "alpha: between 0 and 1 is wanted, 0"),
        ("ademamix", {"beta3": 1}, "beta3: from 0 to below 1 is wanted, 1"),
        ("ademamix", {"t_alpha": 0}, "t_alpha: at least 1 is wanted, 0"),
        ("ademamix", {"t_beta3": 9, "beta1": 0}, "t_beta3: it wants beta1 and beta3 above 0"),
        ("lion_8bit", {"adam_beta2": 1}, "adam_beta2: from 0 to below 1 is wanted, 1"),
        ("adamw_torch_4bit", {"block_size": 3}, "block_size: an even number of 2 or more is wanted, 3"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        decode(options_of(CATALOG, name, "optimizer.name"), options)
