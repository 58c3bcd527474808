"""APOLLO makes the updates of its authors' package, random projections included, and goes on exactly."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import apollo_torch
import pytest
import torch
from torch import nn

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

LOW_RANK = {
    "rank": 8,
    "update_proj_gap": 3,
    "scale": 1.0,
    "proj_type": "std",
    "proj": "random",
    "scale_type": "channel",
}
make = partial(partial, build, "apollo_adamw", optim_target_modules="all-linear")


def package(found: Weights, low_rank: dict[str, Any], **options: Any) -> Any:
    """The package projects the groups that have a rank."""
    made = [{**group, **(low_rank if group.get("role") == "targeted" else {})} for group in groups(found)]
    return apollo_torch.APOLLOAdamW(made, lr=RATE, **{"eps": 1e-8, **options})


@pytest.mark.parametrize(
    "low_rank",
    [
        {},
        {"rank": 4},
        {"update_proj_gap": 5},
        {"scale": 4.0},
        {"proj": "svd"},
        {"scale_type": "tensor"},
        {"scale_type": "tensor", "rank": 1, "scale": 128.0},
        {"scale_type": "tensor", "proj_type": "reverse_std"},
        {"scale_type": "tensor", "proj_type": "left"},
        {"scale_type": "tensor", "proj_type": "right"},
    ],
    ids=str,
)
def test_updates_are_the_packages(low_rank: dict[str, Any]) -> None:
    ours = after(make(**(LOW_RANK | low_rank)))
    assert difference(ours, after(partial(package, low_rank=LOW_RANK | low_rank))) <= 1e-6
    if low_rank:
        assert difference(ours, after(make(**LOW_RANK))) > 1e-4


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"adam_beta1": 0.8}, {"betas": (0.8, 0.999)}),
        ({"adam_beta2": 0.9}, {"betas": (0.9, 0.9)}),
        ({"adam_epsilon": 0.1}, {"eps": 0.1}),
    ],
    ids=str,
)
def test_options_of_adam_are_the_packages(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    found = after(make(**LOW_RANK, **ours))
    assert difference(found, after(partial(package, low_rank=LOW_RANK, **theirs))) <= 1e-6
    assert difference(found, after(make(**LOW_RANK))) > 1e-4


@pytest.mark.parametrize("proj_type", ["reverse_std", "left", "right"])
def test_a_channel_lies_along_what_is_projected(proj_type: str) -> None:
    """The package fails at these, where it takes the shorter dimension for the projected one."""
    found = weights()
    optimizer = make(**(LOW_RANK | {"proj_type": proj_type}))(found)
    before = found["wide"].detach().clone()
    gradient = torch.randn(before.shape, generator=torch.Generator().manual_seed(3))
    found["wide"].grad = gradient.clone()
    optimizer.step()
    factors = (before - found["wide"].detach() / (1 - RATE * 0.1)) / gradient
    factors = factors.where(gradient.abs() > 0.1, torch.nan)  # others are lost in rounding
    dim = 0 if proj_type == "left" else 1
    middle = factors.nanmedian(dim=dim, keepdim=True).values
    assert ((factors / middle).nan_to_num(1.0) - 1).abs().max() < 1e-3
    assert middle.std() / middle.mean() > 1e-2


def test_projections_are_made_without_torchs_own_generator() -> None:
    found = weights()
    optimizer = make(**(LOW_RANK | {"update_proj_gap": 1}))(found)
    for weight in found.values():
        weight.grad = torch.ones_like(weight)
    before = torch.get_rng_state()
    optimizer.step()
    first = optimizer.state[found["wide"]]["projection_left"]
    optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)
    second = optimizer.state[found["wide"]]["projection_left"]
    assert not torch.allclose(first, second)
    assert first.shape == (16, 8)
    assert first.var().item() == pytest.approx(1 / 8, rel=0.3)


def test_an_update_grows_by_one_percent_a_step_at_most() -> None:
    weight = nn.Parameter(torch.zeros(8, 8))
    group = {"params": [weight], "param_names": ["w"], "weight_decay": 0.0, "role": "targeted"}
    optimizer = type(make(**LOW_RANK)(weights()))([group], lr=1.0, betas=(0.0, 0.0), rank=4)
    sizes = []
    for size in (1.0, 100.0, 100.0):
        before = weight.detach().clone()
        # Without a memory Adam makes all gradients alike; the channels' factors are undone by their norms.
        weight.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * size
        optimizer.step()
        sizes.append((weight.detach() - before).norm().item())
    assert sizes[1] <= 1.0101 * sizes[0]
    assert sizes[2] <= 1.0101 * sizes[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("proj", ["random", "svd"])
def test_layerwise_updates_are_the_same_to_the_last_bit(proj: str, dtype: torch.dtype) -> None:
    options = {**LOW_RANK, "proj": proj, "optim_target_modules": "all-linear"}
    at_once = after(partial(build, "apollo_adamw", **options), dtype=dtype)
    one_by_one = after(partial(build, "apollo_adamw_layerwise", **options), dtype=dtype)
    assert same(at_once, one_by_one)
    assert not same(at_once, weights(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("proj", ["random", "svd"])
@pytest.mark.parametrize("name", ["apollo_adamw", "apollo_adamw_layerwise"])
def test_they_go_on_exactly(tmp_path: Path, name: str, proj: str, dtype: torch.dtype) -> None:
    # One projection is in use when the checkpoint is written; the next follows from what is in it.
    options = {**LOW_RANK, "proj": proj, "update_proj_gap": 2, "optim_target_modules": "all-linear"}
    assert same(*continued(partial(build, name, **options), tmp_path, dtype=dtype))


def test_bf16_stays_near_fp32() -> None:
    found = after(make(**LOW_RANK), dtype=torch.bfloat16)
    assert difference({k: v.float() for k, v in found.items()}, after(make(**LOW_RANK))) < 0.1


def test_options_that_cannot_hold() -> None:
    options = options_of(CATALOG, "apollo_adamw", "optimizer.name")
    targets = {"optim_target_modules": "all-linear"}
    for given, start in (
        ({}, "optim_target_modules: it is needed"),
        ({**targets, "proj": "qr"}, "proj: 'qr' is none of its values"),
        ({**targets, "proj_type": "full"}, "proj_type: 'full' is none of its values"),
    ):
        with pytest.raises(ConfigError, match=start):
            decode(options, given)
    assert decode(options, targets).scale == 1.0
    layerwise = options_of(CATALOG, "apollo_adamw_layerwise", "optimizer.name")
    assert [decode(kind, targets).updates_in_backward for kind in (options, layerwise)] == [False, True]


def test_the_state_is_at_most_what_is_said() -> None:
    found = weights()
    optimizer = make(**LOW_RANK)(found)
    drive(optimizer, found, range(1))
    bound = decode(
        options_of(CATALOG, "apollo_adamw", "optimizer.name"), {"optim_target_modules": "x"}
    ).state_tensors
    for name in ("wide", "tall"):
        tensors = [v for v in optimizer.state[found[name]].values() if isinstance(v, torch.Tensor)]
        assert 0 < sum(tensor.numel() for tensor in tensors) <= bound * found[name].numel()
