"""Whatever an optimizer keeps is written and read back, so that training goes on to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes.functional
import pytest
import torch

from conf.errors import CheckpointError
from models.weights import WeightFiles
from tests.trainer.optimizers.random_problem import (
    build,
    continued,
    drive,
    read_back,
    same,
    weights,
    written,
)
from trainer.optimizers import CATALOG
from trainer.optimizers.state import group_values, restore_state, split_state

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

# What a name needs, or what makes it keep most.
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "rmsprop": {"momentum": 0.9, "centered": True},
    "adagrad": {"lr_decay": 0.1},
    "adamw_anyprecision": {"use_kahan_summation": True, "momentum_dtype": "bfloat16"},
    "schedule_free_adamw": {"warmup_steps": 4, "r": 0.5},
    "schedule_free_radam": {"silent_sgd_phase": False, "weight_lr_power": 1.0},
    "schedule_free_sgd": {"warmup_steps": 4},
    "ademamix": {"t_alpha": 20, "t_beta3": 20},
}
LOW_RANK = {"rank": 4, "update_proj_gap": 2, "optim_target_modules": "all-linear"}


def options_for(name: str) -> dict[str, Any]:
    low_rank = LOW_RANK if name.startswith(("galore", "apollo")) else {}
    return {**low_rank, **OPTIONS.get(name, {})}


@pytest.mark.parametrize("name", CATALOG)
def test_a_fresh_optimizer_goes_on_to_the_last_bit(name: str, tmp_path: Path) -> None:
    whole, again = continued(lambda found: build(name, found, **options_for(name)), tmp_path)
    assert same(whole, again)
    assert not same(whole, weights())


@pytest.mark.parametrize("name", CATALOG)
def test_so_it_does_with_weights_in_bf16(name: str, tmp_path: Path) -> None:
    whole, again = continued(
        lambda found: build(name, found, **options_for(name)), tmp_path, dtype=torch.bfloat16
    )
    assert same(whole, again)


@pytest.mark.parametrize("name", ["adamw_torch_8bit", "adamw_torch_4bit", "adamw_torch_fp8"])
def test_chance_in_rounding_goes_on(name: str, tmp_path: Path) -> None:
    options = {"bf16_stochastic_round": True}
    whole, again = continued(lambda found: build(name, found, **options), tmp_path, dtype=torch.bfloat16)
    assert same(whole, again)


def test_losses_that_grokadamw_heard_of_come_back(tmp_path: Path) -> None:
    found = weights()
    optimizer = build("grokadamw", found)
    began = group_values(optimizer)
    optimizer.note_losses(1.0, 3.0)
    fresh = build("grokadamw", weights())
    read_back(fresh, tmp_path, written(optimizer, began, tmp_path))
    assert [(g["train_loss"], g["eval_loss"]) for g in fresh.param_groups] == [(1.0, 3.0)] * 3


def test_packed_tensors_are_written_as_their_parts() -> None:
    found = weights()
    optimizer = build("adamw_torch_4bit", found)
    drive(optimizer, found, range(2))
    tensors, scalars = split_state(optimizer)
    assert {key for key in tensors if key.startswith("tall/")} == {
        "tall/step",
        *(
            f"tall/{state}.{part}"
            for state in ("exp_avg", "exp_avg_sq")
            for part in ("codes", "scale", "qmap")
        ),
    }
    assert all(type(tensor) is torch.Tensor for tensor in tensors.values())
    assert scalars["tall/exp_avg_sq"] == {
        "kind": "OptimState4bit",
        "signed": False,
        "shape": [96, 64],
        "dtype": "torch.float32",
    }


def test_what_is_unknown_or_damaged_is_refused(tmp_path: Path) -> None:
    found = weights()
    optimizer = build("adamw_torch_8bit", found)
    drive(optimizer, found, range(1))
    plain = written(optimizer, group_values(optimizer), tmp_path)["scalars"]
    files = WeightFiles(tmp_path, "optimizer")

    def refused(scalars: dict[str, Any], problem: str) -> None:
        with pytest.raises(CheckpointError, match=problem):
            restore_state(build("adamw_torch_8bit", weights()), files, scalars)

    kept = plain["wide/exp_avg"]
    for key, value in (("kind", "os:system"), ("dtype", "load")):
        refused({**plain, "wide/exp_avg": {**kept, key: value}}, f"wide/exp_avg is a tensor .*{value!r}")
    without = {key: value for key, value in kept.items() if key != "signed"}
    refused({**plain, "wide/exp_avg": without}, "wide/exp_avg lacks signed; the checkpoint is damaged")
    refused({**plain, "wide/other": kept}, "wide/other lacks codes, scale, qmap; the checkpoint is damaged")
    refused({**plain, "gone/exp_avg": kept}, "optimizer state of 'gone', which is not trained here")


def test_a_state_that_was_paged_is_paged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As memory of a GPU's driver; there is none here, so its place is taken."""
    asked = []

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        asked.append((shape, dtype, device.type))
        return torch.empty(shape, dtype=dtype)

    monkeypatch.setattr("bitsandbytes.functional.get_paged", get_paged)
    pages = bitsandbytes.functional.GlobalPageManager.get_instance()
    monkeypatch.setattr(pages, "paged_tensors", [])
    paged, plain = build("paged_adamw_8bit", weights()), build("adamw_8bit", weights())
    large, small = torch.empty(400, 300, device="meta"), torch.empty(40, 30, device="meta")
    like = torch.empty(400, 300, dtype=torch.uint8)
    memory = paged.memory_for(large, "state1", like)
    assert asked == [((400, 300), torch.uint8, "meta")]
    assert pages.paged_tensors == [memory]
    for optimizer, parameter, state in (
        (paged, large, "absmax1"),
        (paged, small, "state1"),
        (paged, torch.empty(400, 300), "state1"),
        (plain, large, "state1"),
    ):
        assert optimizer.memory_for(parameter, state, like).device == parameter.device
    assert len(asked) == 1
