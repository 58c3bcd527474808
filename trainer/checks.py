"""What no single field can know: options that contradict each other, or would do nothing.

An option without effect is a problem only if the user gave it, and not if something given more strongly (the
command line over the recipe, the recipe over a default) made it idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from conf.decode import decode_fields, decode_leniently
from conf.errors import ConfigError
from conf.plugins import nearest, options_of, resolve
from models import CATALOG as FAMILIES
from trainer.arguments import HOMES, read, refused
from trainer.config import RunConfig

CHOICES = {
    "objective": "trainer.objectives:CATALOG",
    "optimizer": "trainer.optimizers:CATALOG",
    "schedule": "trainer.schedules:CATALOG",
}

_STRENGTH = {"recipe": 1, "command line": 2}


def judged(data: Mapping[str, Any], given: Mapping[str, str]) -> RunConfig:
    """Decode a composed configuration and judge it as a whole.

    Raises ``ConfigError`` with everything that is wrong: keys, types, names, contradictions, and options that
    were given and would do nothing.
    """
    config, problems = decode_leniently(RunConfig, data, homes=HOMES)
    if config is not None:
        judge = _Judge(config, given)
        parts = (judge.model, judge.processor, judge.data, judge.intervals, judge.rest)
        for problem in chain(refused(config), *(part() for part in parts)):
            path = problem.partition(":")[0]
            if not any(path == wrong or wrong.startswith(f"{path}.") for wrong in problems):
                problems[path] = problem
    if problems:
        raise ConfigError(problems.values())
    assert config is not None
    return config


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


def strength(path: str, given: Mapping[str, str]) -> int:
    """0 for a default, 1 given in the recipe, 2 on the command line; of a section the strongest."""
    inside = [where for key, where in given.items() if key == path or key.startswith(path + ".")]
    return max((_STRENGTH[where] for where in inside), default=0)


class _Judge:
    def __init__(self, config: RunConfig, given: Mapping[str, str]):
        self.config, self.given = config, given

    def strength(self, path: str) -> int:
        return strength(path, self.given)

    def idle(self, path: str, because: str, reason: str) -> Iterator[str]:
        """A problem if ``path`` was given, and at least as strongly as what made it idle."""
        value = read(self.config, path)
        if value is not None and self.strength(path) and self.strength(path) >= self.strength(because):
            yield f"{path}: {value!r} has no effect {reason}; leave it out."

    def both(self, first: str, second: str) -> Iterator[str]:
        """A problem if both were given equally strongly, or more so the second, which the first idles."""
        if self.strength(first) and self.strength(first) == self.strength(second):
            yield f"{first}: given together with {second}, and only one of them can hold; leave one out."
        elif self.strength(first):
            yield from self.idle(second, first, f"with the recipe's {first}")

    def model(self) -> Iterator[str]:
        model = self.config.model
        try:
            family = options_of(FAMILIES, model.name, "model.name")
        except ConfigError as error:
            yield from error.problems
            return
        if model.path is not None and self.strength("model.path") > 0:
            yield from self.both("model.path", "model.preset")
            if model.config and self.strength("model.config") >= self.strength("model.path"):
                yield "model.config: it changes a preset, and model.path is given; leave one of them out."
        elif model.preset is None:
            yield f"model.preset: choose one, or give model.path; {nearest('', family.presets)}"
        elif model.preset not in family.presets:
            yield f"model.preset: there is no {model.preset!r}; {nearest(model.preset, family.presets)}"
        else:
            yield from self.model_facts(family)

    def model_facts(self, family: Any) -> Iterator[str]:
        """What the preset and ``model.config`` say together."""
        model = self.config.model
        try:
            family.preset(model.preset, **decode_fields(family, model.config, "model.config"))
        except ConfigError as error:
            yield from (text.replace(f"{family.__name__}.", "model.config.") for text in error.problems)

    def processor(self) -> Iterator[str]:
        tokenizer = self.config.processor.tokenizer
        if tokenizer.path is not None and tokenizer.train is not None:
            yield from self.both("processor.tokenizer.path", "processor.tokenizer.train")
        if tokenizer.path is None and tokenizer.train is None and self.config.model.path is None:
            yield "processor.tokenizer: give a path to one, or train: bpe."
        model = self.config.model.path
        if model is not None and (Path(model) / "tokenizer.json").is_file():
            for name in ("path", "train", "vocab_size", "min_frequency"):
                yield from self.idle(
                    f"processor.tokenizer.{name}", "model.path", "where model.path brings its own tokenizer"
                )
        if tokenizer.train is None:
            for name in ("vocab_size", "min_frequency"):
                yield from self.idle(
                    f"processor.tokenizer.{name}",
                    "processor.tokenizer.train",
                    "on a tokenizer that is not trained",
                )

    def data(self) -> Iterator[str]:
        data, training = self.config.data, self.config.training
        if not data.train:
            yield "data.train: at least one source is required; give data.train.NAME.path and .format."
        if data.dataloader_prefetch_factor is not None and data.dataloader_num_workers == 0:
            yield from self.idle(
                "data.dataloader_prefetch_factor",
                "data.dataloader_num_workers",
                "without dataloader_num_workers",
            )
        if data.streaming and training.max_steps == -1:
            yield "training.max_steps: a streamed data set has no known length; say how many steps to make."
        if data.streaming:
            yield from self.idle("show", "data.streaming", "on a streamed data set")
            yield from self.idle("data.dataloader_drop_last", "data.streaming", "on a streamed data set")
            if data.dataloader_num_workers > 1:
                yield "data.dataloader_num_workers: several cannot share one stream of rows; use 0 or 1."
        else:
            yield from self.idle("data.shuffle_block", "data.streaming", "without data.streaming")
        if training.max_steps != -1 and not data.streaming:
            yield from self.both("training.max_steps", "training.num_train_epochs")

    def intervals(self) -> Iterator[str]:
        config = self.config
        for section, strategy, steps in (
            ("evaluation", config.evaluation.eval_strategy, "eval_steps"),
            ("checkpoint", config.checkpoint.save_strategy, "save_steps"),
            ("logging", config.logging.logging_strategy, "logging_steps"),
        ):
            name = steps.replace("steps", "strategy")
            if strategy != "steps":
                yield from self.idle(
                    f"{section}.{steps}", f"{section}.{name}", f"with {section}.{name}={strategy}"
                )
        if config.checkpoint.save_strategy == "no":
            yield from self.idle(
                "checkpoint.save_total_limit", "checkpoint.save_strategy", "without checkpoints"
            )
        yield from self.evaluation()

    def evaluation(self) -> Iterator[str]:
        config = self.config
        idle = ["eval_delay", "metric_for_best_model", "greater_is_better"]
        if config.evaluation.eval_strategy == "no":
            if not config.evaluation.eval_on_start:
                idle.append("per_device_eval_batch_size")
            for name in idle:
                yield from self.idle(f"evaluation.{name}", "evaluation.eval_strategy", "without evaluation")
            for key, callback in config.callbacks.items():
                path, strategy = f"callbacks.{key}", "evaluation.eval_strategy"
                if callback.name == "early_stopping" and self.strength(path) >= self.strength(strategy):
                    yield f"{path}: it stops on evaluation results, and there are none; set {strategy}."
        if config.data.validation:
            return
        if config.evaluation.eval_strategy != "no" or config.evaluation.eval_on_start:
            yield "data.validation: evaluation needs a source; give one, or evaluation.eval_strategy: 'no'."

    def rest(self) -> Iterator[str]:
        if self.config.show < 0:
            yield f"show: a count of documents is wanted, {self.config.show} was given."
        for section in ("model", "processor", "data"):
            if getattr(self.config, section).given:
                yield f"{section}.given: only a Python program gives one; leave it out."
