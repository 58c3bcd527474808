"""What no single field can know: options that contradict each other, or would do nothing.

``trainer.judge`` has the rules for a recipe and a Python program, ``trainer.recipe_judge`` those for recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from conf.decode import decode_leniently
from conf.errors import ConfigError
from conf.plugins import options_of, resolve
from trainer.arguments import HOMES, refused
from trainer.config import RunConfig
from trainer.judge import Judge
from trainer.recipe_judge import RecipeJudge
from trainer.strength import strength

CHOICES = {
    "objective": "trainer.objectives:CATALOG",
    "optimizer": "trainer.optimizers:CATALOG",
    "schedule": "trainer.schedules:CATALOG",
}


def judged(data: Mapping[str, Any], given: Mapping[str, str]) -> RunConfig:
    """Decode a composed configuration and judge it as a whole.

    Raises ``ConfigError`` with everything that is wrong: keys, types, names, contradictions, and options that
    were given and would do nothing.
    """
    config, problems = decode_leniently(RunConfig, data, homes=HOMES)
    found = list(problems.values())
    if config is not None:
        for problem in found_in(config, given, in_recipe=True):
            path = problem.partition(":")[0]
            if not any(path == wrong or wrong.startswith(f"{path}.") for wrong in problems):
                found.append(problem)
    if found:
        raise ConfigError(found)
    assert config is not None
    return config


def found_in(config: RunConfig, given: Mapping[str, str], *, in_recipe: bool = False) -> Iterator[str]:
    """What is wrong with a configuration whose keys and types are right, a sentence each."""
    yield from refused(config)
    yield from (RecipeJudge if in_recipe else Judge)(config, given).found()


def idle_here(config: RunConfig, given: Mapping[str, str], *, device: str, world_size: int) -> Iterator[str]:
    """What was given and does nothing on this machine, though it may on another: sentences to be said."""
    path = "data.dataloader_pin_memory"
    if strength(path, given) and config.data.dataloader_pin_memory and device == "cpu":
        yield f"{path}: true has no effect on a CPU; batches stay where they are."
    if world_size == 1:
        for path in (
            "training.average_tokens_across_devices",
            "logging.log_level_replica",
            "logging.log_on_each_node",
        ):
            if strength(path, given):
                yield f"{path}: it has no effect on a single process."


def without_foreign(data: Mapping[str, Any], given: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The data without the recipe's options of a section for which the command line chose something else.

    ``optimizer=sgd`` on the command line, say, where the recipe sets ``optimizer.adam_beta2``. Returns notes
    as well.
    """
    data, notes = dict(data), []
    for section, catalog in CHOICES.items():
        if given.get(section) != "command line" and given.get(f"{section}.name") != "command line":
            continue
        name = data[section].get("name")
        if name in resolve(catalog):
            known = {f.name for f in fields(options_of(resolve(catalog), name, section))}
            foreign = {k for k in data[section] if k not in known and given.get(f"{section}.{k}") == "recipe"}
            data[section] = {k: v for k, v in data[section].items() if k not in foreign}
            notes += [f"{section}={name} has no {key}; the recipe's is left out." for key in sorted(foreign)]
    return data, notes
