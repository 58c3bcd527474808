"""What no single field of a recipe can know: model, processor, data, and runs that do not train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from conf.decode import decode_fields
from conf.errors import ConfigError
from conf.plugins import nearest, options_of
from models import CATALOG as FAMILIES
from processors.folders import has_tokenizer
from processors.options import TrainOptions
from trainer.judge import Judge
from trainer.strength import TYPED

# What only data sets or functions of a Python program can be affected by, and what that is.
FOR_PROGRAMS = {
    "data.remove_unused_columns": "the columns of a data set given to the Trainer",
    "data.label_names": "the columns of a data set given to the Trainer",
    "data.length_column_name": "the columns of a data set given to the Trainer",
    "evaluation.prediction_loss_only": "a compute_metrics function given to the Trainer",
    "evaluation.include_for_metrics": "a compute_metrics function given to the Trainer",
    "evaluation.eval_do_concat_batches": "a compute_metrics function given to the Trainer",
    "evaluation.batch_eval_metrics": "a compute_metrics function given to the Trainer",
    "evaluation.eval_accumulation_steps": "the predictions that a Trainer collects",
    "evaluation.eval_use_gather_object": "the predictions that a Trainer collects",
}
# The sources that a task reads.
SPLITS = {"train": ("train", "validation"), "evaluate": ("validation",), "predict": ("test",)}
# What a run that does not train does not look at, and what it looks at of these sections after all.
OF_TRAINING = (
    "training",
    "optimizer",
    "schedule",
    "checkpoint",
    "evaluation",
    "hub",
    "resume",
    "logging",
    "data.streaming",
    "data.shuffle",
    "data.shuffle_block",
    "data.group_by_length",
    "data.sortish_sampler",
    "data.dataloader_drop_last",
    "data.dataloader_persistent_workers",
)
OF_ALL = (
    "training.seed",
    "training.num_threads",
    "training.full_determinism",
    "training.label_smoothing_factor",
    "evaluation.per_device_eval_batch_size",
    "logging.log_level",
    "logging.log_level_replica",
    "logging.log_on_each_node",
    "logging.skip_memory_metrics",
)


class RecipeJudge(Judge):
    """Finds what is wrong with a recipe, which also says model, processor and data."""

    def found(self) -> Iterator[str]:
        """Everything that is wrong; of what a Python program gave, only that it cannot be had from here."""
        if given := list(self.program()):
            yield from given
            return
        yield from super().found()
        yield from self.model()
        yield from self.processor()
        yield from self.data()
        yield from self.sources()
        yield from self.task()
        yield from self.recipe()

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
        options = [f.name for f in fields(TrainOptions) if f.name != "train"]
        if tokenizer.path is not None and tokenizer.train is not None:
            yield from self.both("processor.tokenizer.path", "processor.tokenizer.train")
        if tokenizer.path is None and tokenizer.train is None and self.config.model.path is None:
            yield "processor.tokenizer: give a path to one, or train: bpe."
        if tokenizer.train is not None and not self.brings_tokenizer:
            yield from (f"processor.tokenizer.{problem}" for problem in tokenizer.problems())
        if self.brings_tokenizer:
            for name in ("path", "train", *options):
                yield from self.idle(
                    f"processor.tokenizer.{name}", "model.path", "where model.path brings its own tokenizer"
                )
        if tokenizer.train is None:
            for name in options:
                yield from self.idle(
                    f"processor.tokenizer.{name}",
                    "processor.tokenizer.train",
                    "on a tokenizer that is not trained",
                )

    @property
    def brings_tokenizer(self) -> bool:
        """Whether the folder of the model has a tokenizer."""
        model = self.config.model.path
        return model is not None and has_tokenizer(model)

    def data(self) -> Iterator[str]:
        data = self.config.data
        if not data.train and (self.config.task == "train" or self.config.model.path is None):
            yield "data.train: at least one source is required; give data.train.NAME.path and .format."
        if not data.streaming or not data.shuffle:
            because = "data.streaming" if not data.streaming else "data.shuffle"
            yield from self.idle("data.shuffle_block", because, f"without {because}")
        if not data.streaming or self.config.task != "train":
            return
        if self.config.training.max_steps == -1:
            yield "training.max_steps: a streamed data set has no known length; say how many steps to make."
        idle = ["show", "data.dataloader_drop_last"]
        idle += [] if data.validation else ["data.max_truncated", "data.check_rows"]
        for path in idle:
            yield from self.idle(path, "data.streaming", "on a streamed data set")
        if data.dataloader_num_workers > 1:
            yield "data.dataloader_num_workers: several cannot share one stream of rows; use 0 or 1."
        if data.groups_by_length:
            yield "data.group_by_length: the lengths of a streamed data set are not known; leave it out."

    def sources(self) -> Iterator[str]:
        """Sources that are missing, and typed ones that nothing reads; a recipe has them for other tasks."""
        config = self.config
        evaluates = config.evaluation.eval_strategy != "no" or config.evaluation.eval_on_start
        if config.task == "train" and evaluates and not config.data.validation:
            yield "data.validation: evaluation needs a source; give one, or evaluation.eval_strategy: 'no'."
        trains_tokenizer = config.processor.tokenizer.train is not None and not self.brings_tokenizer
        for split in ("train", "validation", "test"):
            is_read = split in SPLITS[config.task] or (split == "train" and trains_tokenizer)
            reason = f"it is not read with task={config.task}"
            if split == "validation" and config.task == "train" and not evaluates:
                is_read, reason = False, "it is not read without evaluation"
            if not is_read and self.strength(f"data.{split}") == TYPED:
                yield f"data.{split}: {reason}; leave it out."

    def task(self) -> Iterator[str]:
        """What a run that does not train needs, and what it leaves idle."""
        config, task = self.config, self.config.task
        if config.generation.predict_with_generate and task != "predict":
            yield from self.idle("generation.predict_with_generate", "task", f"with task={task}")
        if task == "train":
            for name in ("bf16_full_eval", "fp16_full_eval"):
                if getattr(config.precision, name):
                    yield from self.idle(
                        f"precision.{name}", "task", "while training; it is for task=evaluate"
                    )
            return
        if config.model.path is None:
            yield f"task: {task!r} needs weights; give model.path, a folder or a finished run."
        (split,) = SPLITS[task]
        if not getattr(config.data, split):
            yield f"data.{split}: task={task} needs a source; give data.{split}.NAME.path and .format."
        for path in self.given:
            if _is_in(path, OF_TRAINING) and not _is_in(path, OF_ALL):
                yield from self.idle(path, "task", f"with task={task}")
        if config.data.packing and task == "predict":
            yield from self.idle("data.packing", "task", "with task=predict, which writes of each row")
        for path in (f"callbacks.{key}" for key in config.callbacks):
            if self.strength(path) and self.strength(path) >= self.strength("task"):
                yield f"{path}: nothing calls it with task={task}; leave it out."

    def program(self) -> Iterator[str]:
        """What only a Python program brings."""
        for section in ("model", "processor", "data"):
            if getattr(self.config, section).given:
                yield (
                    f"{section}.given: only a Python program gives one; leave it out, and resume such a run "
                    "by its Trainer.train(resume_from_checkpoint=...)."
                )

    def recipe(self) -> Iterator[str]:
        """What has no effect in a recipe, whatever else it says."""
        config = self.config
        if config.show < 0:
            yield f"show: a count of documents is wanted, {config.show} was given."
        for path, what in FOR_PROGRAMS.items():
            if self.strength(path):
                yield f"{path}: it is about {what}, and a recipe has none; leave it out."
        if config.training.use_cache and not config.training.gradient_checkpointing:
            yield (
                "training.use_cache: it has no effect on this library's models, which keep keys and values "
                "only where they generate; leave it out."
            )
        if (beams := config.generation.generation_num_beams or 1) > 1:
            yield (
                f"generation.generation_num_beams: {beams} beams need a search that is not built; leave it "
                "out or at 1."
            )
        if not any(callback.name == "progress" for callback in config.callbacks.values()):
            yield from self.idle("logging.disable_tqdm", "callbacks", "without callbacks.progress")
        typed = self.strength("checkpoint.ignore_data_skip") == TYPED
        if typed and config.checkpoint.ignore_data_skip and config.resume is None:
            yield "checkpoint.ignore_data_skip: true has no effect without resume; leave it out."


def _is_in(path: str, places: tuple[str, ...]) -> bool:
    """Whether a path is one of these, or inside one."""
    return any(path == place or path.startswith(f"{place}.") for place in places)
