"""Every shipped configuration file composes, decodes, plans and trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from conf import compose
from trainer.checks import judged, without_foreign

RECIPES = compose.recipes()
CHOICES = [(group, option) for group, options in compose.groups().items() for option in options]


def test_every_file_is_found() -> None:
    files = {file.stem: file for file in compose.RECIPES.rglob("*.yaml")}
    assert files == RECIPES, "a flat folder of recipes, none hidden in another"
    assert len(files) >= 2
    files = {(file.parent.name, file.stem) for file in compose.CONF.rglob("*.yaml")} - {("conf", "config")}
    assert files == set(CHOICES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_in_one_line_what_it_does(name: str) -> None:
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    said = compose.describe(RECIPES[name])
    assert lines[1] == f"# {said}"
    assert said.endswith(".")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stands_on_the_defaults_alone(name: str) -> None:
    composed = compose.compose([f"+recipe={name}"])
    assert composed is not None
    assert composed.recipe == name
    text = RECIPES[name].read_text(encoding="utf-8")
    assert "/recipe" not in text, "never a chain"
    config = judged(composed.data, composed.given)
    for sources in (config.data.train, config.data.validation):
        for source in sources.values():
            assert (compose.RECIPES / source.path).exists(), f"{source.path} is not shipped"


# What an option cannot do without.
NEEDED = {
    "schedule_free_adamw": ["schedule=constant"],
    "schedule_free_radam": ["schedule=constant"],
    "schedule_free_sgd": ["schedule=constant"],
    "cosine_with_min_lr": ["schedule.min_lr_rate=0.1"],
    "cosine_warmup_with_min_lr": ["schedule.min_lr_rate=0.1"],
    "warmup_stable_decay": ["schedule.num_decay_steps=10"],
}


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_of_every_group_decodes(group: str, option: str) -> None:
    composed = compose.compose(["+recipe=sft_llama", f"{group}={option}", *NEEDED.get(option, ())])
    assert composed is not None
    data, _ = without_foreign(composed.data, composed.given)
    config = judged(data, composed.given)
    chosen = getattr(config, group)
    if hasattr(chosen, "name") and group != "callbacks":
        assert chosen.name == option


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_plans_and_trains_two_steps(name: str, train: Any, tiny: Sequence[str]) -> None:
    words = (f"+recipe={name}", *tiny[1:-1])  # its own callbacks too
    planned = train(*words, "check=true")
    assert planned.status == 0, planned.error
    assert not planned.folder.exists()
    done = train(*words)
    assert done.status == 0, done.error
    assert done.results["global_step"] == 2
    assert all(math.isfinite(line["loss"]) for line in done.metrics if "loss" in line)
    names = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "checkpoint-2"}
    assert names <= {path.name for path in done.folder.iterdir()}
    steps = next(line for line in planned.out.splitlines() if line.startswith("steps  "))
    assert steps in done.out.splitlines(), "what was planned"
