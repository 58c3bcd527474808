"""GaLore's optimizers make the updates of its authors' package, which has no 8-bit form without CUDA."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes
import galore_torch
import pytest
import torch
from galore_torch.galore_projector import GaLoreProjector
from torch import Tensor, nn

from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of
from tests.trainer.optimizers.random_problem import (
    RATE,
    Weights,
    after,
    build,
    continued,
    difference,
    drive,
    groups,
    same,
    weights,
)
from trainer.optimizers import CATALOG
from trainer.optimizers.projection import by_singular_vectors, projected_side

pytestmark = pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated:FutureWarning")

LOW_RANK = {"rank": 8, "update_proj_gap": 3, "scale": 0.25, "proj_type": "std"}
NAMES = ["galore_adamw", "galore_adamw_8bit", "galore_adafactor"]
TYPES = ["std", "reverse_std", "left", "right", "full"]
# Projected on both sides by its own vectors a gradient is diagonal; the rest of it is rounding, which Adam
# would make as large as what counts, were it not for an epsilon that is larger.
OURS: dict[str, dict[str, Any]] = {"galore_adamw": {"adam_epsilon": 1e-3}, "galore_adafactor": {}}
THEIRS: dict[str, dict[str, Any]] = {"galore_adamw": {"eps": 1e-3}, "galore_adafactor": {}}
make = partial(partial, build, optim_target_modules="all-linear")


def packages_groups(found: Weights, low_rank: dict[str, Any]) -> list[dict[str, Any]]:
    """The package projects the groups that have a rank."""
    return [{**group, **(low_rank if group.get("role") else {})} for group in _two(groups(found))]


def _two(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Embeddings have no role here."""
    return [{k: v for k, v in group.items() if (k, v) != ("role", "embedding")} for group in made]


def adamw(found: Weights, low_rank: dict[str, Any], **options: Any) -> Any:
    return galore_torch.GaLoreAdamW(packages_groups(found, low_rank), lr=RATE, **{"eps": 1e-8, **options})


def adafactor(found: Weights, low_rank: dict[str, Any], **options: Any) -> Any:
    options = {"scale_parameter": False, "relative_step": False} | options
    return galore_torch.GaLoreAdafactor(packages_groups(found, low_rank), lr=RATE, **options)


class EightBitByHand:
    """The package's projector around an optimizer of bitsandbytes for each weight."""

    def __init__(self, found: Weights, low_rank: dict[str, Any], **options: Any):
        self.param_groups = groups(found)
        self.parts: dict[Tensor, tuple[Any, nn.Parameter, GaLoreProjector | None]] = {}
        for group in self.param_groups:
            group.setdefault("lr", RATE)
            for weight in group["params"]:
                is_low = group.get("role") == "targeted"
                projector = GaLoreProjector(**low_rank) if is_low else None
                target = weight
                if projector is not None:
                    target = nn.Parameter(torch.zeros_like(projector.project(torch.randn(weight.shape), 0)))
                    projector.ortho_matrix = None
                decay = 0.0 if is_low else group["weight_decay"]
                part = bitsandbytes.optim.AdamW8bit([target], weight_decay=decay, **options)
                self.parts[weight] = part, target, projector
        self.step_number = 0

    def zero_grad(self, set_to_none: bool) -> None:
        for weight in self.parts:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                part, target, projector = self.parts[weight]
                part.param_groups[0]["lr"] = group["lr"]
                if projector is None:
                    part.step()
                    continue
                target.zero_()
                target.grad = projector.project(weight.grad, self.step_number)
                part.step()
                weight.add_(projector.project_back(target))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
        self.step_number += 1


@pytest.mark.parametrize("proj_type", TYPES)
@pytest.mark.parametrize(("name", "package"), [("galore_adamw", adamw), ("galore_adafactor", adafactor)])
def test_updates_are_the_packages(name: str, package: Any, proj_type: str) -> None:
    low_rank = {**LOW_RANK, "proj_type": proj_type}
    ours = after(make(name, **low_rank, **OURS[name]))
    assert difference(ours, after(partial(package, low_rank=low_rank, **THEIRS[name]))) <= 1e-6
    if proj_type != "std":
        assert difference(ours, after(make(name, **LOW_RANK, **OURS[name]))) > 1e-3


@pytest.mark.parametrize("low_rank", [{"rank": 4}, {"update_proj_gap": 5}, {"scale": 1.0}], ids=str)
@pytest.mark.parametrize(("name", "package"), [("galore_adamw", adamw), ("galore_adafactor", adafactor)])
def test_each_option_of_the_projection_is_the_packages(
    name: str, package: Any, low_rank: dict[str, Any]
) -> None:
    ours = after(make(name, **(LOW_RANK | low_rank)))
    assert difference(ours, after(partial(package, low_rank=LOW_RANK | low_rank))) <= 1e-6
    assert difference(ours, after(make(name, **LOW_RANK))) > 1e-4


@pytest.mark.parametrize(
    ("name", "package", "ours", "theirs"),
    [
        ("galore_adamw", adamw, {"adam_beta1": 0.8}, {"betas": (0.8, 0.999)}),
        ("galore_adamw", adamw, {"adam_beta2": 0.9}, {"betas": (0.9, 0.9)}),
        ("galore_adamw", adamw, {"adam_epsilon": 0.1}, {"eps": 0.1}),
        ("galore_adafactor", adafactor, {"beta1": 0.9}, {"beta1": 0.9}),
        ("galore_adafactor", adafactor, {"scale_parameter": True}, {"scale_parameter": True}),
        ("galore_adafactor", adafactor, {"clip_threshold": 0.5}, {"clip_threshold": 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_option_of_the_optimizer_is_the_packages(
    name: str, package: Any, ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    found = after(make(name, **LOW_RANK, **ours))
    assert difference(found, after(partial(package, low_rank=LOW_RANK, **theirs))) <= 1e-6
    assert difference(found, after(make(name, **LOW_RANK))) > 1e-4


@pytest.mark.parametrize("min_8bit_size", [64, 10**6], ids=["8 bits", "fp32"])
@pytest.mark.parametrize("proj_type", ["std", "full"])
def test_moments_of_8_bits_are_those_of_bitsandbytes(proj_type: str, min_8bit_size: int) -> None:
    low_rank = {**LOW_RANK, "proj_type": proj_type}
    size = {"min_8bit_size": min_8bit_size}
    with torch.compiler.set_stance("force_eager"):  # bitsandbytes would compile its step in fp32
        oracle = after(partial(EightBitByHand, low_rank=low_rank, betas=(0.8, 0.99), eps=1e-3, **size))
    adam = {"adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-3}
    ours = after(make("galore_adamw_8bit", **low_rank, **adam, **size))
    assert difference(ours, oracle) <= 1e-6
    assert difference(ours, after(make("galore_adamw_8bit", **low_rank, **adam, min_8bit_size=2000))) > 1e-5


def test_few_moments_are_kept_in_fp32_and_many_in_8_bits() -> None:
    found = weights()
    optimizer = make("galore_adamw_8bit", **LOW_RANK)(found)
    drive(optimizer, found, range(1))
    kept = {name: optimizer.state[weight]["state1"] for name, weight in found.items()}
    dtypes = {name: moment.dtype for name, moment in kept.items()}
    assert dtypes == {
        "embedding": torch.uint8,
        "wide": torch.uint8,
        "tall": torch.float32,
        "norm": torch.float32,
    }
    assert {name: tuple(moment.shape) for name, moment in kept.items()} == {
        "embedding": (32, 160),
        "wide": (8, 512),
        "tall": (96, 8),
        "norm": (96,),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_layerwise_updates_are_the_same_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    at_once = after(make(name, **LOW_RANK), dtype=dtype)
    one_by_one = after(make(f"{name}_layerwise", **LOW_RANK), dtype=dtype)
    assert same(at_once, one_by_one)
    assert not same(at_once, weights(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_layerwise" for name in NAMES)])
@pytest.mark.parametrize("proj_type", ["std", "full"])
def test_they_go_on_exactly(tmp_path: Path, name: str, proj_type: str, dtype: torch.dtype) -> None:
    # The checkpoint is written between two projections: the one in use is part of it.
    low_rank = {**LOW_RANK, "update_proj_gap": 2, "proj_type": proj_type}
    assert same(*continued(make(name, **low_rank), tmp_path, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_16_bits_stay_near_fp32(dtype: torch.dtype) -> None:
    for name in NAMES:
        found = after(make(name, **LOW_RANK), dtype=dtype)
        exact = after(make(name, **LOW_RANK))
        assert difference({k: v.float() for k, v in found.items()}, exact) < 0.1


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((4, 9), ["left", "right"]), ((9, 4), ["right", "left"]), ((4, 4), ["right", "left"])],
)
def test_the_shorter_dimension_is_projected(shape: tuple[int, int], sides: list[str]) -> None:
    assert [projected_side(torch.Size(shape), kind) for kind in ("std", "reverse_std")] == sides
    assert [projected_side(torch.Size(shape), kind) for kind in ("left", "full")] == ["left", "full"]


@pytest.mark.parametrize("side", ["left", "right", "full"])
def test_a_projection_of_full_rank_loses_nothing_and_its_vectors_are_their_own(side: str) -> None:
    gradient = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    projection = by_singular_vectors(gradient, 8, side)
    torch.testing.assert_close(projection.up(projection.down(gradient)), gradient)
    small = by_singular_vectors(gradient, 2, side)
    for matrix in (small.left, small.right):
        if matrix is not None:
            assert matrix.is_contiguous()
            assert matrix.untyped_storage().nbytes() == 4 * matrix.numel() == 4 * 10


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_layerwise" for name in NAMES)])
def test_options_that_cannot_hold(name: str) -> None:
    options = options_of(CATALOG, name, "optimizer.name")
    for given, start in (
        ({}, "optim_target_modules: it is needed"),
        ({"optim_target_modules": []}, "optim_target_modules: it is needed"),
        ({"optim_target_modules": "all-linear", "rank": 0}, "rank: 1 or more is wanted, 0 was given"),
        ({"optim_target_modules": "all-linear", "update_proj_gap": 0}, "update_proj_gap: 1 or more"),
        ({"optim_target_modules": "all-linear", "scale": 0}, "scale: more than 0 is wanted"),
        ({"optim_target_modules": "all-linear", "proj_type": "up"}, "proj_type: 'up' is none of its values"),
    ):
        with pytest.raises(ConfigError, match=start):
            decode(options, given)
    decoded = decode(options, {"optim_target_modules": ["q_proj", "v_proj"]})
    assert decoded.optim_target_modules == ("q_proj", "v_proj")
    assert decoded.updates_in_backward == name.endswith("layerwise")


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_at_most_what_is_said(name: str) -> None:
    """For a rank of a third of the shorter side; the embedding and the norm are small here."""
    found = {name: nn.Parameter(torch.zeros(256, 384)) for name in ("wide", "tall", "embedding", "norm")}
    options = {"optim_target_modules": "all-linear", "rank": 85}
    decoded = decode(options_of(CATALOG, name, "optimizer.name"), options)
    optimizer = build(name, found, **options)
    for weight in found.values():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    states = (optimizer.state[found[name]] for name in ("wide", "tall"))
    kept = sum(v.nbytes for state in states for v in state.values() if isinstance(v, Tensor))
    assert 0 < kept <= decoded.state_tensors * sum(found[name].nbytes for name in ("wide", "tall"))
