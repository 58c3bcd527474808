"""LOMO and AdaLomo make the updates of their authors' package."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lomo_optim
import pytest
import torch
from torch import nn

from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of
from tests.trainer.optimizers.random_problem import RATE, Weights, build, continued, difference, same, weights
from trainer.optimizers import CATALOG
from trainer.optimizers.lomo import AdaLomo, Lomo

KINDS: list[tuple[Any, Any]] = [(Lomo, lomo_optim.Lomo), (AdaLomo, lomo_optim.AdaLomo)]


def losses(found: Weights) -> Any:
    """Ten losses, whose gradients differ in size as well."""
    for step in range(10):
        generator = torch.Generator().manual_seed(step)
        terms = ((weight * torch.randn(weight.shape, generator=generator)).sum() for weight in found.values())
        yield torch.stack([*terms]).sum() * (1 + step)


def by_the_package(kind: Any, options: dict[str, Any]) -> Weights:
    found = weights()
    holder = nn.Module()
    holder.weights = nn.ParameterDict(found)
    optimizer = kind(holder, **options)
    for step, loss in enumerate(losses(found)):
        optimizer.fused_backward(loss, RATE * (1 + step / 10))
    return found


def by_ours(kind: Any, options: dict[str, Any]) -> Weights:
    found = weights()
    optimizer = kind(found.values(), **options)
    for step, loss in enumerate(losses(found)):
        optimizer.param_groups[0]["lr"] = RATE * (1 + step / 10)
        loss.backward()
        optimizer.step()
    return found


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"clip_grad_value": 0.3}], ids=str)
@pytest.mark.parametrize(("ours", "packages"), KINDS, ids=["lomo", "adalomo"])
def test_updates_are_the_packages(
    ours: Any, packages: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # where AdaLomo would put its state
    found = by_ours(ours, options)
    assert difference(found, by_the_package(packages, options)) <= 1e-6
    if options:
        assert difference(found, by_ours(ours, {})) > 1e-5


@pytest.mark.parametrize(
    "option", [{"eps": (1e-2, 1e-3)}, {"clip_threshold": 0.5}, {"decay_rate": -0.5}], ids=str
)
def test_options_of_the_second_moment_are_the_packages(
    option: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    found = by_ours(AdaLomo, option)
    assert difference(found, by_the_package(lomo_optim.AdaLomo, option)) <= 1e-6
    assert difference(found, by_ours(AdaLomo, {})) > 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_they_go_on_exactly(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    assert same(*continued(partial(build, name, clip_grad_value=1.0), tmp_path, dtype=dtype))


@pytest.mark.parametrize(("name", "kind"), [("lomo", Lomo), ("adalomo", AdaLomo)])
def test_recipes_give_all_options(name: str, kind: type) -> None:
    given = {"clip_grad_value": 0.5, "learning_rate": 0.2}
    if name == "adalomo":
        given |= {"eps": [1e-20, 1e-2], "clip_threshold": 2.0, "decay_rate": -0.7}
    optimizer = build(name, weights(), **given)
    assert type(optimizer) is kind
    assert optimizer.in_backward
    assert optimizer.clip_grad_value == 0.5
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.2
    if name == "adalomo":
        assert (group["eps"], group["clip_threshold"], group["decay_rate"]) == ((1e-20, 1e-2), 2.0, -0.7)
    options = decode(options_of(CATALOG, name, "optimizer.name"), {})
    assert options.updates_in_backward
    assert options.state_tensors <= 0.02


@pytest.mark.parametrize("name", ["lomo", "adalomo"])
def test_a_cut_that_leaves_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="clip_grad_value: more than 0 is wanted, 0"):
        decode(options_of(CATALOG, name, "optimizer.name"), {"clip_grad_value": 0.0})
