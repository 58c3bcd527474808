"""What no single field can know, of the options that a recipe and a Python program share.

An option without effect is a problem only if the user gave it, and not if something given more strongly (the
command line over the recipe, the recipe over a default) made it idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from callbacks.trackers import TRACKERS
from conf.decode import Chosen
from conf.errors import ConfigError
from conf.plugins import options_of
from models.options import CheckpointingOptions, LigerKernels, read_options
from trainer.arguments import read
from trainer.config import SECRET, RunConfig
from trainer.optimization_judge import optimization_problems
from trainer.strength import strength

READ_BY_TRACKERS = {
    "project": ("trackio", "wandb", "swanlab", "comet_ml", "clearml"),
    "trackio_space_id": ("trackio",),
    "logging_dir": ("tensorboard",),
}
# Backends of torch.compile that run a graph as it is and have no modes.
WITHOUT_MODES = ("eager", "aot_eager", "aot_eager_decomp_partition", "cudagraphs")


class Judge:
    """Finds contradictions and options without effect; each method gives a sentence for each."""

    def __init__(self, config: RunConfig, given: Mapping[str, str]):
        self.config, self.given = config, given

    def found(self) -> Iterator[str]:
        """Everything that is wrong."""
        yield from self.packages()
        yield from self.tracking()
        yield from self.training()
        yield from optimization_problems(self.config, self.given)
        yield from self.compilation()
        yield from self.checkpoint()
        yield from self.loader()
        yield from self.intervals()
        yield from self.evaluation()
        yield from self.predictions()
        yield from self.hub()
        yield from self.generation()

    def strength(self, path: str) -> int:
        return strength(path, self.given)

    def idle(self, path: str, because: str, reason: str) -> Iterator[str]:
        """A problem if ``path`` was given, and at least as strongly as what made it idle."""
        value = read(self.config, path)
        if value is not None and self.strength(path) and self.strength(path) >= self.strength(because):
            yield f"{path}: {_shown(path, value)} has no effect {reason}; leave it out."

    def both(self, first: str, second: str) -> Iterator[str]:
        """A problem if both were given equally strongly, or more so the second, which the first idles."""
        if self.strength(first) and self.strength(first) == self.strength(second):
            yield f"{first}: given together with {second}, and only one of them can hold; leave one out."
        elif self.strength(first):
            yield from self.idle(second, first, f"with the recipe's {first}")

    def packages(self) -> Iterator[str]:
        """What is not installed and would be needed."""
        chosen = {"optimizer": self.config.optimizer}
        chosen |= {f"callbacks.{key}": choice for key, choice in self.config.callbacks.items()}
        for path, choice in chosen.items():
            package = getattr(choice.options, "package", None)
            if package is not None and package.is_missing:
                yield f"{path}: {choice.name} cannot be used; {package.problem}"
        for name in self.config.logging.trackers:
            package = options_of(TRACKERS, name, "logging.report_to").package
            if package.is_missing:
                yield f"logging.report_to: {name} cannot be used; {package.problem}"

    def tracking(self) -> Iterator[str]:
        """Options of trackers that are not chosen."""
        sections = {choice.name for choice in self.config.callbacks.values()}
        chosen = {*self.config.logging.trackers, *sections} & TRACKERS.keys()
        for name, readers in READ_BY_TRACKERS.items():
            if not chosen & set(readers):
                wanted = " or ".join(readers)
                yield from self.idle(f"logging.{name}", "logging.report_to", f"without {wanted}")

    def training(self) -> Iterator[str]:
        training, data = self.config.training, self.config.data
        if training.max_steps != -1:
            yield from self.both("training.max_steps", "training.num_train_epochs")
        for name, because, on, options in (
            (
                "gradient_checkpointing_kwargs",
                "gradient_checkpointing",
                training.gradient_checkpointing,
                CheckpointingOptions,
            ),
            ("liger_kernel_config", "use_liger_kernel", training.use_liger_kernel, LigerKernels),
        ):
            if not on:
                yield from self.idle(f"training.{name}", f"training.{because}", f"without {because}")
            try:
                read_options(options, getattr(training, name), f"training.{name}")
            except ConfigError as error:
                yield from error.problems
        if training.use_cache and training.gradient_checkpointing:
            yield (
                "training.use_cache: gradient checkpointing computes layers twice and cannot fill a cache; "
                "leave one of them out."
            )
        if training.auto_find_batch_size:
            if data.streaming:
                yield (
                    "training.auto_find_batch_size: a streamed step cannot be read again; leave one of them "
                    "out."
                )
            elif training.per_device_train_batch_size == 1:
                because = "training.per_device_train_batch_size"
                yield from self.idle("training.auto_find_batch_size", because, "on micro-batches of one row")

    def compilation(self) -> Iterator[str]:
        training = self.config.training
        # Either of the last two turns it on.
        switch, backend, mode = (f"training.torch_compile{end}" for end in ("", "_backend", "_mode"))
        if not training.torch_compile and self.strength(switch):
            for path in (backend, mode):
                if read(self.config, path) and self.strength(switch) >= self.strength(path):
                    yield f"{switch}: False was given, and {path} turns it on; leave one of them out."
        if training.torch_compile_mode not in (None, "default"):
            name = training.torch_compile_backend
            if name in WITHOUT_MODES:
                yield from self.idle(mode, backend, f"with {backend}={name}, which has no modes")

        if training.compiles:
            yield from self.looking_inside()

    def looking_inside(self) -> Iterator[str]:
        """What looks at modules that a compiled model no longer has."""
        looking = [
            f"callbacks.{key}"
            for key, callback in self.config.callbacks.items()
            if callback.name == "underflow_overflow"
            or (callback.name == "statistics" and callback.activations)
        ]
        for path in [*looking, *(["logging.debug"] if self.config.logging.debugging else [])]:
            yield f"{path}: a compiled model does not show its modules; leave it or torch_compile out."

    def loader(self) -> Iterator[str]:
        data = self.config.data
        if data.dataloader_num_workers == 0:
            for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
                if getattr(data, name):
                    because, reason = "data.dataloader_num_workers", "without dataloader_num_workers"
                    yield from self.idle(f"data.{name}", because, reason)
        if data.groups_by_length:
            path = f"data.{'group_by_length' if data.group_by_length else 'sortish_sampler'}"
            if data.packing:
                yield f"{path}: packed rows all have one length; leave it or data.packing out."
            if not data.shuffle:
                yield f"{path}: it is an order of its own; leave it out, or data.shuffle: true."
        elif data.given:
            yield from self.idle("data.length_column_name", "data.group_by_length", "without group_by_length")

    def intervals(self) -> Iterator[str]:
        config = self.config
        evaluation, logging = config.evaluation, config.logging
        for section, strategy, steps in (
            ("evaluation", evaluation.eval_strategy, "eval_steps"),
            ("checkpoint", config.checkpoint.save_strategy, "save_steps"),
            ("logging", logging.logging_strategy, "logging_steps"),
        ):
            name = steps.replace("steps", "strategy")
            if steps == "logging_steps" and evaluation.eval_strategy == "steps" and not evaluation.eval_steps:
                continue  # then it says when to evaluate as well
            if strategy != "steps":
                because = f"{section}.{name}"
                yield from self.idle(f"{section}.{steps}", because, f"with {because}={strategy}")

    def predictions(self) -> Iterator[str]:
        """How predictions are kept, where none are."""
        evaluation = self.config.evaluation
        kept = ("eval_accumulation_steps", "eval_do_concat_batches")
        collected = (*kept, "include_for_metrics", "batch_eval_metrics", "eval_use_gather_object")
        for name, idle in (("prediction_loss_only", collected), ("batch_eval_metrics", kept)):
            for path in (f"evaluation.{idler}" for idler in idle if getattr(evaluation, name)):
                yield from self.idle(path, f"evaluation.{name}", f"with evaluation.{name}")

    def evaluation(self) -> Iterator[str]:
        config = self.config
        if config.evaluation.eval_strategy != "no" or config.task != "train":
            return
        because, reason = "evaluation.eval_strategy", "without evaluation"
        idle = ["eval_delay", "metric_for_best_model", "greater_is_better"]
        if not config.evaluation.eval_on_start and not config.data.given:
            idle.append("per_device_eval_batch_size")
            yield from self.idle("metrics", because, reason)
        for name in idle:
            yield from self.idle(f"evaluation.{name}", because, reason)
        for key, callback in config.callbacks.items():
            path = f"callbacks.{key}"
            follows = callback.name in ("early_stopping", "best_model")
            if callback.name == "samples":
                follows = callback.every_evaluation
            if follows and self.strength(path) >= self.strength(because):
                yield f"{path}: it goes by evaluations, and there are none; set {because}."

    def checkpoint(self) -> Iterator[str]:
        checkpoint, evaluation = self.config.checkpoint, self.config.evaluation
        if checkpoint.save_strategy == "no":
            because, reason = "checkpoint.save_strategy", "without checkpoints"
            for name in ("save_total_limit", "save_only_model"):
                if getattr(checkpoint, name):
                    yield from self.idle(f"checkpoint.{name}", because, reason)
        if checkpoint.save_strategy == "best" and evaluation.eval_strategy == "no":
            yield "checkpoint.save_strategy: 'best' is told by evaluations; set evaluation.eval_strategy."
        if checkpoint.load_best_model_at_end:
            yield from self.best()

    def best(self) -> Iterator[str]:
        """Whether there will be a checkpoint of the best evaluation to end with."""
        checkpoint, evaluation = self.config.checkpoint, self.config.evaluation
        path, strategy = "checkpoint.load_best_model_at_end", evaluation.eval_strategy
        if strategy == "no":
            yield f"{path}: evaluations tell which is best; set evaluation.eval_strategy."
        elif checkpoint.save_strategy not in (strategy, "best"):
            yield (
                f"{path}: every evaluated step must be saved; set checkpoint.save_strategy: {strategy}, or "
                "best."
            )
        elif strategy == checkpoint.save_strategy == "steps":
            every, saved = evaluation.eval_steps or self.config.logging.logging_steps, checkpoint.save_steps
            if (every < 1) != (saved < 1) or not _is_multiple(saved, every):
                yield (
                    f"{path}: checkpoint.save_steps={saved:g} is not a multiple of evaluation.eval_steps="
                    f"{every:g}; choose them so that each saved step is evaluated."
                )

    def hub(self) -> Iterator[str]:
        hub = self.config.hub
        if not hub.push_to_hub:
            for field in fields(hub):
                value = getattr(hub, field.name)
                if field.name != "push_to_hub" and (value is not False or field.default is not False):
                    yield from self.idle(f"hub.{field.name}", "hub.push_to_hub", "without push_to_hub")
            return
        if hub.hub_strategy == "end":
            if hub.hub_always_push:
                reason = "with hub.hub_strategy=end, which pushes once"
                yield from self.idle("hub.hub_always_push", "hub.hub_strategy", reason)
        elif self.config.checkpoint.save_strategy == "no":
            for name in ("hub_strategy", *(["hub_always_push"] if hub.hub_always_push else [])):
                yield from self.idle(f"hub.{name}", "checkpoint.save_strategy", "without checkpoints")

    def generation(self) -> Iterator[str]:
        if not self.config.generation.predict_with_generate:
            for name in ("generation_max_length", "generation_num_beams", "generation_config"):
                because, reason = "generation.predict_with_generate", "without predict_with_generate"
                yield from self.idle(f"generation.{name}", because, reason)


def _shown(path: str, value: Any) -> str:
    """A value in a sentence; what is secret is not shown."""
    if path == ".".join(SECRET):
        return f"<{SECRET[1].upper()}>"
    return repr(value.name if isinstance(value, Chosen) else value)


def _is_multiple(number: float, of: float) -> bool:
    """For shares of all steps too, which are no exact numbers."""
    return abs(number / of - round(number / of)) < 1e-9 and round(number / of) >= 1
