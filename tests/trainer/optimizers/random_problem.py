"""A random problem for optimizers: weights of all kinds, and gradients that follow from the step alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conf.decode import decode
from conf.plugins import options_of, thing_of
from models.weights import WeightFiles, save_tensors
from trainer.optimizers import CATALOG
from trainer.optimizers.state import (
    changed_values,
    group_values,
    restore_state,
    restore_values,
    split_state,
)

# All but the last have enough numbers to be quantized, in whole blocks of 256.
SHAPES = {"embedding": (32, 160), "wide": (16, 512), "tall": (96, 64), "norm": (96,)}
RATE = 0.01
Weights = dict[str, nn.Parameter]


def weights(dtype: torch.dtype = torch.float32) -> Weights:
    """The weights that the problem begins with, as that type has them."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator).mul_(0.3).to(dtype))
        for name, shape in SHAPES.items()
    }


def groups(weights: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Hidden matrices, embeddings and vectors, as ``parameter_groups`` lists them."""
    return [
        {"params": [weights["wide"], weights["tall"]], "param_names": ["wide", "tall"], "weight_decay": 0.1,
         "role": "targeted"},
        {"params": [weights["embedding"]], "param_names": ["embedding"], "weight_decay": 0.1,
         "role": "embedding"},
        {"params": [weights["norm"]], "param_names": ["norm"], "weight_decay": 0.0, "lr": 2 * RATE},
    ]  # fmt: skip


def build(name: str, weights: Mapping[str, nn.Parameter], **options: Any) -> Any:
    """The catalog's optimizer over ``groups``; the options are judged as those of a recipe are."""
    decoded = decode(options_of(CATALOG, name, "optimizer.name"), {"learning_rate": RATE, **options})
    return thing_of(CATALOG, name, "optimizer.name")(decoded, groups(weights))


def drive(optimizer: Any, weights: Mapping[str, nn.Parameter], steps: Iterable[int]) -> None:
    """Make these steps of a learning rate that rises and falls; chance is the step's own."""
    for step in steps:
        for group in optimizer.param_groups:
            rate = group.setdefault("initial_lr", float(group["lr"])) * min((step + 1) / 4, 1 - step / 20)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        generator = torch.Generator().manual_seed(1 + step)
        optimizer.zero_grad(set_to_none=True)
        # The gradient of a product with a constant is the constant.
        terms = (
            (weight * torch.randn(weight.shape, generator=generator).to(weight.dtype)).sum()
            for weight in weights.values()
        )
        torch.manual_seed(step)
        torch.stack([*terms]).sum().backward()
        optimizer.step()


def after(make: Callable[[Weights], Any], *, dtype: torch.dtype = torch.float32, steps: int = 10) -> Weights:
    """The weights after these steps of the optimizer that ``make`` makes for them."""
    found = weights(dtype)
    drive(make(found), found, range(steps))
    return found


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest one between two sets of weights."""
    return max((one[name] - other[name]).abs().max().item() for name in SHAPES)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether they agree to the last bit."""
    return all(torch.equal(one[name], other[name]) for name in SHAPES)


def written(optimizer: Any, began: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Write an optimizer's state as checkpoints do; what is no tensor comes back as JSON gives it."""
    tensors, scalars = split_state(optimizer)
    save_tensors(tensors.items(), lambda name: (folder / name).open("wb"), stem="optimizer")
    return json.loads(json.dumps({"scalars": scalars, "groups": changed_values(optimizer, began)}))


def read_back(optimizer: Any, folder: Path, plain: Mapping[str, Any]) -> None:
    """Put into a fresh optimizer what ``written`` wrote."""
    restore_state(optimizer, WeightFiles(folder, "optimizer"), plain["scalars"])
    restore_values(optimizer, plain["groups"])


def continued(
    make: Callable[[Weights], Any], folder: Path, *, dtype: torch.dtype = torch.float32
) -> tuple[Weights, Weights]:
    """The weights after six steps, and after three, a checkpoint and three by a fresh optimizer."""
    whole = after(make, dtype=dtype, steps=6)
    found = weights(dtype)
    optimizer = make(found)
    began = group_values(optimizer)
    drive(optimizer, found, range(3))
    plain = written(optimizer, began, folder)
    again = {name: nn.Parameter(weight.detach().clone()) for name, weight in found.items()}
    fresh = make(again)
    read_back(fresh, folder, plain)
    drive(fresh, again, range(3, 6))
    return whole, again
