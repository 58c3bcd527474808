"""What no single field can know: options that contradict each other, or would do nothing.

An option without effect is a problem only if the user gave it, and not if something given more strongly (the
command line over the recipe, the recipe over a default) made it idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from conf.errors import ConfigError
from conf.plugins import nearest, options_of
from models import CATALOG as FAMILIES
from trainer.arguments import read, refused
from trainer.config import RunConfig

_STRENGTH = {"recipe": 1, "command line": 2}


def check(config: RunConfig, given: Mapping[str, str]) -> None:
    """Raise ``ConfigError`` with every contradiction and every option that was given and would do nothing."""
    judge = _Judge(config, given)
    problems = [*refused(config), *judge.model(), *judge.processor(), *judge.data(), *judge.intervals(), *judge.rest()]
    if problems:
        raise ConfigError(problems)


class _Judge:
    def __init__(self, config: RunConfig, given: Mapping[str, str]):
        self.config, self.given = config, given

    def strength(self, path: str) -> int:
        """0 for a default, 1 given in the recipe, 2 on the command line; for a section the strongest of it."""
        inside = [where for key, where in self.given.items() if key == path or key.startswith(path + ".")]
        return max((_STRENGTH[where] for where in inside), default=0)

    def idle(self, path: str, because: str, reason: str) -> Iterator[str]:
        """A problem if ``path`` was given, and at least as strongly as what made it idle."""
        if self.strength(path) and self.strength(path) >= self.strength(because):
            yield f"{path}: {read(self.config, path)!r} has no effect {reason}; leave it out."

    def both(self, first: str, second: str) -> Iterator[str]:
        """A problem if both were given equally strongly."""
        if self.strength(first) and self.strength(first) == self.strength(second):
            yield f"{first}: given together with {second}, and only one of them can hold; leave one out."

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

    def processor(self) -> Iterator[str]:
        tokenizer = self.config.processor.tokenizer
        if tokenizer.path is not None and tokenizer.train is not None:
            yield from self.both("processor.tokenizer.path", "processor.tokenizer.train")
        if tokenizer.path is None and tokenizer.train is None and self.config.model.path is None:
            yield "processor.tokenizer: give a path to one, or train: bpe."
        if tokenizer.train is None:
            for name in ("vocab_size", "min_frequency"):
                yield from self.idle(
                    f"processor.tokenizer.{name}", "processor.tokenizer.train", "on a tokenizer that is not trained"
                )

    def data(self) -> Iterator[str]:
        data, training = self.config.data, self.config.training
        if not data.train:
            yield "data.train: at least one source is required; give data.train.NAME.path and .format."
        if data.dataloader_prefetch_factor is not None and data.dataloader_num_workers == 0:
            yield from self.idle(
                "data.dataloader_prefetch_factor", "data.dataloader_num_workers", "without dataloader_num_workers"
            )
        if data.streaming and training.max_steps == -1:
            yield "training.max_steps: a streamed data set has no known length; say how many steps to make."
        if data.streaming:
            for name in ("dataloader_drop_last", "dataloader_num_workers"):
                yield from self.idle(f"data.{name}", "data.streaming", "on a streamed data set")
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
                yield from self.idle(f"{section}.{steps}", f"{section}.{name}", f"with {section}.{name}={strategy}")
        if config.checkpoint.save_strategy == "no":
            yield from self.idle("checkpoint.save_total_limit", "checkpoint.save_strategy", "without checkpoints")
        if config.evaluation.eval_strategy == "no":
            for name in ("eval_delay", "metric_for_best_model", "greater_is_better", "per_device_eval_batch_size"):
                yield from self.idle(f"evaluation.{name}", "evaluation.eval_strategy", "without evaluation")
        elif not config.data.validation:
            yield "data.validation: evaluation is asked for and there is no source; give one, or eval_strategy: 'no'."

    def rest(self) -> Iterator[str]:
        if self.config.show < 0:
            yield f"show: a count of documents is wanted, {self.config.show} was given."
