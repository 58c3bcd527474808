"""Optimizers of packages are the packages' own, with the given options; so are the averages of weights."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import partial
from typing import Any

import optimi
import pytest
import schedulefree
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
from trainer.averaging.schedule_free import ScheduleFreeWeights
from trainer.optimizers import CATALOG
from trainer.optimizers.grokadamw import PackageGrokAdamW

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*autocast:FutureWarning", "ignore:.*CUDA is not available:UserWarning",
    "ignore:.*potentially high for decouple_lr",
)  # fmt: skip

Case = tuple[dict[str, Any], dict[str, Any]]


def alike(**values: Any) -> Case:
    """Options that the package calls by the same names."""
    return values, values


ADAM: list[Case] = [
    alike(),
    ({"adam_beta1": 0.8}, {"betas": (0.8, 0.999)}),
    ({"adam_beta2": 0.9}, {"betas": (0.9, 0.9)}),
    ({"adam_epsilon": 0.1}, {"eps": 0.1}),
]
AVERAGE = [alike(r=1.0), alike(weight_lr_power=0.5)]


def in_training(kind: Any, found: Any, **arguments: Any) -> Any:
    optimizer = kind(groups(found), **arguments)
    optimizer.train()
    return optimizer


SCHEDULE_FREE: dict[str, tuple[Any, list[Case]]] = {
    "schedule_free_adamw": (
        partial(in_training, schedulefree.AdamWScheduleFree),
        [*ADAM, *AVERAGE, alike(warmup_steps=5)],
    ),
    "schedule_free_radam": (
        partial(in_training, schedulefree.RAdamScheduleFree),
        [*ADAM, *AVERAGE, alike(silent_sgd_phase=False)],
    ),
    "schedule_free_sgd": (
        partial(in_training, schedulefree.SGDScheduleFree),
        [alike(), *AVERAGE, alike(momentum=0.5), alike(warmup_steps=5)],
    ),
}
OTHERS: dict[str, tuple[Any, list[Case]]] = {
    "grokadamw": (
        lambda found, **arguments: PackageGrokAdamW(groups(found), **arguments),
        [
            *ADAM,
            alike(alpha_init=0.5),
            alike(lamb=0.5),
            alike(gamma=0.5),
            alike(gradient_clipping=0.01),
            alike(gradient_clipping=0.0),
        ],
    ),
    "stable_adamw": (
        lambda found, **arguments: optimi.StableAdamW(
            groups(found), **{"betas": (0.9, 0.999), "eps": 1e-8, "triton": False, **arguments}
        ),
        [*ADAM, alike(decouple_lr=True), alike(decouple_lr=True, max_lr=0.1)],
    ),
}
CASES = [(name, make, *case) for name, (make, cases) in {**SCHEDULE_FREE, **OTHERS}.items() for case in cases]


@pytest.mark.parametrize(("name", "make", "options", "arguments"), CASES)
def test_it_is_the_packages_with_the_given_options(
    name: str, make: Any, options: dict[str, Any], arguments: dict[str, Any]
) -> None:
    ours = after(lambda found: build(name, found, **options))
    assert difference(ours, after(lambda found: make(found, lr=RATE, **arguments))) <= 1e-6
    if options:
        assert difference(ours, after(lambda found: build(name, found))) > 1e-5


@pytest.mark.parametrize("name", SCHEDULE_FREE)
def test_the_weights_that_stand_in_are_the_packages_average(name: str) -> None:
    ours, theirs = weights(), weights()
    optimizer, oracle = build(name, ours), SCHEDULE_FREE[name][0](theirs, lr=RATE)
    averaging = ScheduleFreeWeights(optimizer)
    for step in range(12):
        drive(optimizer, ours, [step])
        drive(oracle, theirs, [step])
        trained = {key: weight.detach().clone() for key, weight in ours.items()}
        before = {key: weight.detach().clone() for key, weight in theirs.items()}
        oracle.eval()
        with averaging.applied():
            assert same(ours, theirs)
            assert step < 6 or difference(ours, trained) > 1e-5
        assert same(ours, trained)
        with torch.no_grad():  # back as it was, which the package's own way back does only nearly
            oracle.train()
            for key, weight in theirs.items():
                weight.copy_(before[key])
    averaging.settle()
    oracle.eval()
    assert same(ours, theirs)


def test_kahan_summation_of_stable_adamw_is_for_weights_of_few_bits() -> None:
    for kahan_sum in (None, True, False):
        ours = after(lambda found: build("stable_adamw", found, kahan_sum=kahan_sum), dtype=torch.bfloat16)  # noqa: B023
        theirs = after(
            lambda found: OTHERS["stable_adamw"][0](found, lr=RATE, kahan_sum=kahan_sum),  # noqa: B023
            dtype=torch.bfloat16,
        )
        assert same(ours, theirs)


def test_the_slow_mean_of_grokadamw_hears_of_the_losses() -> None:
    def trained(rate: float, make: Any) -> Any:
        found = weights()
        optimizer = make(found, rate)
        for step in range(10):
            if isinstance(optimizer, PackageGrokAdamW) and hasattr(optimizer, "note_losses"):
                optimizer.note_losses(1.0, 3.0)
            else:
                for group in optimizer.param_groups:
                    group.update(train_loss=1.0, eval_loss=3.0)
            drive(optimizer, found, [step])
        return found

    def ours(found: Any, rate: float) -> Any:
        return build("grokadamw", found, grokking_signal_decay_rate=rate)

    def theirs(found: Any, rate: float) -> Any:
        return PackageGrokAdamW(groups(found), lr=RATE, grokking_signal_decay_rate=rate)

    assert difference(trained(0.5, ours), trained(0.5, theirs)) <= 1e-6
    assert difference(trained(0.5, ours), trained(0.1, ours)) > 1e-5


def test_importing_grokadamw_leaves_logging_alone() -> None:
    program = "import logging, trainer.optimizers.grokadamw; print(logging.root.level, logging.root.handlers)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(logging.WARNING), "[]"]


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("schedule_free_adamw", {"adam_beta1": 0}, "adam_beta1: between 0 and 1 is wanted, 0"),
        ("schedule_free_sgd", {"momentum": 1}, "momentum: between 0 and 1 is wanted, 1"),
        ("schedule_free_sgd", {"warmup_steps": -1}, "warmup_steps: 0 or more is wanted, -1"),
        ("grokadamw", {"alpha_init": 2}, "alpha_init: from 0 to 1 is wanted, 2"),
        ("grokadamw", {"lamb": -1}, "lamb: 0 or more is wanted, -1"),
        ("stable_adamw", {"max_lr": 1e-3}, "max_lr: it is for decouple_lr"),
        ("stable_adamw", {"max_lr": 0, "decouple_lr": True}, "max_lr: above 0 is wanted, 0"),
    ],
)
def test_what_cannot_be_is_refused(name: str, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"^{problem}"):
        decode(options_of(CATALOG, name, "optimizer.name"), options)
