"""What no single field can know: contradictions and options without effect, and who wins over whom."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conf.decode import leaves
from conf.errors import ConfigError
from trainer.arguments import HOMES, in_flat_names, run_config
from trainer.checks import found_in, idle_here, judged, without_foreign
from trainer.config import RunConfig
from trainer.recipe_judge import FOR_PROGRAMS
from trainer.training_arguments import Seq2SeqTrainingArguments

# A configuration that is right; nothing of it counts as given.
BASE: dict[str, Any] = {
    "model": {"name": "llama", "preset": "tiny"},
    "processor": {"tokenizer": {"train": "bpe"}},
    "data": {"train": {"chat": {"path": "chat.jsonl", "format": "chat"}}},
    "optimizer": {"name": "adamw_torch_fused"},
    "schedule": {"name": "linear"},
    "objective": {"name": "causal_lm"},
}
VALIDATION = {"data.validation.chat": {"path": "chat.jsonl", "format": "chat"}}
EVALUATES = {"evaluation.eval_strategy": "steps"}


def configuration(
    recipe: Mapping[str, Any] = {},
    line: Mapping[str, Any] = {},
    base: Mapping[str, Any] = BASE,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The base with values at dotted paths, and which of them were given where."""
    data, given = copy.deepcopy(dict(base)), dict[str, str]()
    for where, values in (("recipe", recipe), ("command line", line)):
        for path, value in values.items():
            *sections, leaf = path.split(".")
            section = data
            for name in sections:
                section = section.setdefault(name, {})
            section[leaf] = copy.deepcopy(value)
            given |= {inner: where for inner, _ in leaves(value, path)}
    return data, given


def problems(**options: Mapping[str, Any]) -> list[str]:
    try:
        judged(*configuration(**options))
    except ConfigError as error:
        return list(error.problems)
    return []


def test_the_base_is_right() -> None:
    assert isinstance(judged(*configuration()), RunConfig)


# One case a check: what is given at one place, and the sentence.
WRONG: list[tuple[dict[str, Any], str]] = [
    # the model
    ({"model.preset": None}, "model.preset: choose one, or give model.path; known are"),
    ({"model.preset": "tinny"}, "model.preset: there is no 'tinny'; did you mean 'tiny'?"),
    ({"model.name": "lama"}, "model.name: there is no 'lama'; did you mean 'llama'?"),
    (
        {"model.preset": "tiny", "model.path": "somewhere"},
        "model.path: given together with model.preset, and only one of them can hold; leave one out.",
    ),
    (
        {"model.path": "somewhere", "model.config.hidden_size": 8},
        "model.config: it changes a preset, and model.path is given; leave one of them out.",
    ),
    (
        {"model.config.hiden_size": 8},
        "model.config.hiden_size: no such key; did you mean 'model.config.hidden_size'?",
    ),
    ({"model.config.hidden_size": "x"}, "model.config.hidden_size: a whole number is wanted, 'x' was given."),
    (
        {"model.given": True},
        "model.given: only a Python program gives one; leave it out, and resume such a run by its "
        "Trainer.train(resume_from_checkpoint=...).",
    ),
    # the processor
    (
        {"processor.tokenizer.path": "there", "processor.tokenizer.train": "bpe"},
        "processor.tokenizer.path: given together with processor.tokenizer.train, and only one of them can "
        "hold; leave one out.",
    ),
    ({"processor.tokenizer.train": None}, "processor.tokenizer: give a path to one, or train: bpe."),
    (
        {
            "processor.tokenizer.path": "there",
            "processor.tokenizer.train": None,
            "processor.tokenizer.vocab_size": 99,
        },
        "processor.tokenizer.vocab_size: 99 has no effect on a tokenizer that is not trained; leave it out.",
    ),
    (
        {
            "processor.tokenizer.path": "there",
            "processor.tokenizer.train": None,
            "processor.tokenizer.min_frequency": 9,
        },
        "processor.tokenizer.min_frequency: 9 has no effect on a tokenizer that is not trained; leave it "
        "out.",
    ),
    ({"processor.given": True}, "processor.given: only a Python program gives one; leave it out, and"),
    # the data
    (
        {"data.train": {}},
        "data.train: at least one source is required; give data.train.NAME.path and .format.",
    ),
    (
        {"data.dataloader_prefetch_factor": 4},
        "data.dataloader_prefetch_factor: 4 has no effect without dataloader_num_workers; leave it out.",
    ),
    (
        {"data.streaming": True},
        "training.max_steps: a streamed data set has no known length; say how many steps to make.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.dataloader_drop_last": True},
        "data.dataloader_drop_last: True has no effect on a streamed data set; leave it out.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.dataloader_num_workers": 2},
        "data.dataloader_num_workers: several cannot share one stream of rows; use 0 or 1.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "show": 2},
        "show: 2 has no effect on a streamed data set; leave it out.",
    ),
    (
        {"data.shuffle_block": 64},
        "data.shuffle_block: 64 has no effect without data.streaming; leave it out.",
    ),
    (
        {"training.max_steps": 5, "training.num_train_epochs": 2},
        "training.max_steps: given together with training.num_train_epochs, and only one of them can hold; "
        "leave one out.",
    ),
    ({"data.given": True}, "data.given: only a Python program gives one; leave it out, and"),
    (
        {"data.train.chat.weight": 0},
        "data.train.chat.weight: 0.0 is not above 0; leave the source out to not use it.",
    ),
    # intervals
    (
        {"evaluation.eval_steps": 5},
        "evaluation.eval_steps: 5.0 has no effect with evaluation.eval_strategy=no; leave it out.",
    ),
    (
        {"checkpoint.save_strategy": "epoch", "checkpoint.save_steps": 5},
        "checkpoint.save_steps: 5.0 has no effect with checkpoint.save_strategy=epoch; leave it out.",
    ),
    (
        {"logging.logging_strategy": False, "logging.logging_steps": 5},
        "logging.logging_steps: 5.0 has no effect with logging.logging_strategy=no; leave it out.",
    ),
    (
        {"checkpoint.save_strategy": "no", "checkpoint.save_total_limit": 3},
        "checkpoint.save_total_limit: 3 has no effect without checkpoints; leave it out.",
    ),
    # evaluation
    (
        {"evaluation.eval_delay": 5},
        "evaluation.eval_delay: 5.0 has no effect without evaluation; leave it out.",
    ),
    (
        {"evaluation.metric_for_best_model": "loss"},
        "evaluation.metric_for_best_model: 'loss' has no effect without evaluation; leave it out.",
    ),
    (
        {"evaluation.greater_is_better": False},
        "evaluation.greater_is_better: False has no effect without evaluation; leave it out.",
    ),
    (
        {"evaluation.per_device_eval_batch_size": 5},
        "evaluation.per_device_eval_batch_size: 5 has no effect without evaluation; leave it out.",
    ),
    (
        {"evaluation.eval_strategy": "steps"},
        "data.validation: evaluation needs a source; give one, or evaluation.eval_strategy: 'no'.",
    ),
    (
        {"evaluation.eval_on_start": True},
        "data.validation: evaluation needs a source; give one, or evaluation.eval_strategy: 'no'.",
    ),
    (
        {"callbacks.early_stopping": {"early_stopping_patience": 2}},
        "callbacks.early_stopping: it goes by evaluations, and there are none; set evaluation.eval_strategy.",
    ),
    (
        {"callbacks.second": {"name": "early_stopping"}},
        "callbacks.second: it goes by evaluations, and there are none; set evaluation.eval_strategy.",
    ),
    # single values that a section judges itself
    ({"show": -1}, "show: a count of documents is wanted, -1 was given."),
    ({"data.max_length": 1}, "data.max_length: at least 2 is wanted, 1 was given."),
    ({"data.max_truncated": 1.5}, "data.max_truncated: a share between 0 and 1 is wanted, 1.5 was given."),
    ({"data.dataloader_num_workers": -1}, "data.dataloader_num_workers: at least 0 is wanted, -1 was given."),
    (
        {"data.dataloader_prefetch_factor": 0},
        "data.dataloader_prefetch_factor: at least 1 is wanted, 0 was given.",
    ),
    (
        {"training.per_device_train_batch_size": 0},
        "training.per_device_train_batch_size: at least 1 is wanted, 0 was given.",
    ),
    (
        {"training.gradient_accumulation_steps": 0},
        "training.gradient_accumulation_steps: at least 1 is wanted, 0 was given.",
    ),
    (
        {"training.max_steps": 0},
        "training.max_steps: a count of steps, or -1 for none, is wanted, 0 was given.",
    ),
    ({"training.num_train_epochs": 0}, "training.num_train_epochs: more than 0 is wanted, 0.0 was given."),
    ({"training.max_grad_norm": -1}, "training.max_grad_norm: at least 0 is wanted, -1.0 was given."),
    ({"training.num_threads": 0}, "training.num_threads: at least 1 is wanted, 0 was given."),
    (
        {"logging.logging_steps": 1.5},
        "logging.logging_steps: whole steps, or a share of all steps below 1, is wanted, 1.5 was given.",
    ),
    (
        {"checkpoint.save_steps": 0},
        "checkpoint.save_steps: whole steps, or a share of all steps below 1, is wanted, 0.0 was given.",
    ),
    ({"checkpoint.save_total_limit": 0}, "checkpoint.save_total_limit: at least 1 is wanted, 0 was given."),
    ({"optimizer.learning_rate": -1}, "optimizer.learning_rate: 0 or more is wanted, -1.0 was given."),
    ({"optimizer.weight_decay": -1}, "optimizer.weight_decay: 0 or more is wanted, -1.0 was given."),
    ({"optimizer.adam_beta2": 1}, "optimizer.adam_beta2: from 0 to below 1 is wanted, 1.0 was given."),
    ({"optimizer.adam_epsilon": -1}, "optimizer.adam_epsilon: 0 or more is wanted, -1.0 was given."),
    (
        {"optimizer": {"name": "sgd", "nesterov": True}},
        "optimizer.nesterov: it needs a momentum above 0; give one or leave it out.",
    ),
    (
        {"optimizer": {"name": "sgd", "momentum": -1}},
        "optimizer.momentum: 0 or more is wanted, -1.0 was given.",
    ),
    (
        {"schedule.warmup_steps": 1.5},
        "schedule.warmup_steps: whole steps or a share below 1 is wanted, 1.5 was given.",
    ),
    (
        {"schedule.warmup_ratio": 2},
        "schedule.warmup_ratio: a share between 0 and 1 is wanted, 2.0 was given.",
    ),
    (
        {"schedule.warmup_ratio": 0.1, "schedule.warmup_steps": 5},
        "schedule.warmup_ratio: warmup_steps is given too; leave one of them out.",
    ),
    (
        {"schedule": {"name": "constant", "warmup_steps": 5}},
        "schedule.warmup_steps: no such key; there are none here.",
    ),
    (
        {"callbacks": {"early_stopping": {"early_stopping_patience": 0}}},
        "callbacks.early_stopping.early_stopping_patience: at least 1 is wanted",
    ),
    # gradients, kernels, compilation
    (
        {"training.gradient_checkpointing_kwargs": {"use_reentrant": True}},
        "training.gradient_checkpointing_kwargs: {'use_reentrant': True} has no effect without "
        "gradient_checkpointing; leave it out.",
    ),
    (
        {
            "training.gradient_checkpointing": True,
            "training.gradient_checkpointing_kwargs": {"use_reentrant": True, "debug": True},
        },
        "training.gradient_checkpointing_kwargs.debug: does nothing with use_reentrant=true; leave out one",
    ),
    (
        {"training.liger_kernel_config": {"rope": False}},
        "training.liger_kernel_config: {'rope': False} has no effect without use_liger_kernel; leave it out.",
    ),
    (
        {"training.use_cache": True, "training.gradient_checkpointing": True},
        "training.use_cache: gradient checkpointing computes layers twice and cannot fill a cache; leave one",
    ),
    (
        {"training.use_cache": True},
        "training.use_cache: it has no effect on this library's models, which keep keys and values",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "training.auto_find_batch_size": True},
        "training.auto_find_batch_size: a streamed step cannot be read again; leave one of them out.",
    ),
    (
        {"training.auto_find_batch_size": True, "training.per_device_train_batch_size": 1},
        "training.auto_find_batch_size: True has no effect on micro-batches of one row; leave it out.",
    ),
    (
        {"training.torch_compile": False, "training.torch_compile_backend": "eager"},
        "training.torch_compile: False was given, and training.torch_compile_backend turns it on; leave one",
    ),
    (
        {"training.torch_compile_backend": "eager", "training.torch_compile_mode": "max-autotune"},
        "training.torch_compile_mode: 'max-autotune' has no effect with "
        "training.torch_compile_backend=eager, which has no modes; leave it out.",
    ),
    (
        {"training.label_smoothing_factor": 1.0},
        "training.label_smoothing_factor: from 0 to below 1 is wanted, 1.0 was given.",
    ),
    (
        {"training.neftune_noise_alpha": 0.0},
        "training.neftune_noise_alpha: more than 0 is wanted, 0.0 was given; leave it out for no noise.",
    ),
    (
        {"training.torch_empty_cache_steps": 0},
        "training.torch_empty_cache_steps: at least 1 is wanted, 0 was given.",
    ),
    # number formats
    (
        {"precision.bf16": True, "precision.fp16": True},
        "precision.fp16: given together with bf16, and only one of them can hold; leave one out.",
    ),
    (
        {
            "task": "evaluate",
            "model.path": "there",
            **VALIDATION,
            "precision.bf16_full_eval": True,
            "precision.fp16_full_eval": True,
        },
        "precision.fp16_full_eval: given together with bf16_full_eval; leave one of them out.",
    ),
    (
        {"precision.bf16_full_eval": True},
        "precision.bf16_full_eval: True has no effect while training; it is for task=evaluate; leave it out.",
    ),
    (
        {"precision.fp16_full_eval": True},
        "precision.fp16_full_eval: True has no effect while training; it is for task=evaluate; leave it out.",
    ),
    # how data are loaded
    (
        {"data.dataloader_persistent_workers": True},
        "data.dataloader_persistent_workers: True has no effect without dataloader_num_workers; leave it",
    ),
    (
        {"data.group_by_length": True, "data.packing": True},
        "data.group_by_length: packed rows all have one length; leave it or data.packing out.",
    ),
    (
        {"data.sortish_sampler": True, "data.packing": True},
        "data.sortish_sampler: packed rows all have one length; leave it or data.packing out.",
    ),
    (
        {"data.group_by_length": True, "data.shuffle": False},
        "data.group_by_length: it is an order of its own; leave it out, or data.shuffle: true.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.group_by_length": True},
        "data.group_by_length: the lengths of a streamed data set are not known; leave it out.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.shuffle": False, "data.shuffle_block": 9},
        "data.shuffle_block: 9 has no effect without data.shuffle; leave it out.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.max_truncated": 0.5},
        "data.max_truncated: 0.5 has no effect on a streamed data set; leave it out.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "data.check_rows": 5},
        "data.check_rows: 5 has no effect on a streamed data set; leave it out.",
    ),
    (
        {"data.streaming": True, "training.max_steps": 5, "training.num_train_epochs": 2},
        "training.max_steps: given together with training.num_train_epochs, and only one of them can hold",
    ),
    # checkpoints
    (
        {"checkpoint.save_strategy": "no", "checkpoint.save_only_model": True},
        "checkpoint.save_only_model: True has no effect without checkpoints; leave it out.",
    ),
    (
        {"checkpoint.save_strategy": "best"},
        "checkpoint.save_strategy: 'best' is told by evaluations; set evaluation.eval_strategy.",
    ),
    (
        {"checkpoint.load_best_model_at_end": True},
        "checkpoint.load_best_model_at_end: evaluations tell which is best; set evaluation.eval_strategy.",
    ),
    (
        {
            **VALIDATION,
            "checkpoint.load_best_model_at_end": True,
            "evaluation.eval_strategy": "epoch",
        },
        "checkpoint.load_best_model_at_end: every evaluated step must be saved; set "
        "checkpoint.save_strategy: epoch, or best.",
    ),
    (
        {
            **VALIDATION,
            "checkpoint.load_best_model_at_end": True,
            "evaluation.eval_strategy": "steps",
            "evaluation.eval_steps": 5,
            "checkpoint.save_steps": 12,
        },
        "checkpoint.load_best_model_at_end: checkpoint.save_steps=12 is not a multiple of "
        "evaluation.eval_steps=5; choose them so that each saved step is evaluated.",
    ),
    (
        {
            **VALIDATION,
            "checkpoint.load_best_model_at_end": True,
            "evaluation.eval_strategy": "steps",
            "evaluation.eval_steps": 0.1,
            "checkpoint.save_steps": 10,
        },
        "checkpoint.load_best_model_at_end: checkpoint.save_steps=10 is not a multiple of "
        "evaluation.eval_steps=0.1; choose them",
    ),
    # publishing
    *[
        ({path: value}, f"{path}: {shown} has no effect without push_to_hub; leave it out.")
        for path, value, shown in (
            ("hub.hub_model_id", "me/mine", "'me/mine'"),
            ("hub.hub_strategy", "end", "'end'"),
            ("hub.hub_token", "hf_TheSecret", "<HUB_TOKEN>"),
            ("hub.hub_private_repo", False, "False"),
            ("hub.hub_always_push", True, "True"),
            ("hub.hub_revision", "next", "'next'"),
        )
    ],
    (
        {"hub.push_to_hub": True, "hub.hub_strategy": "end", "hub.hub_always_push": True},
        "hub.hub_always_push: True has no effect with hub.hub_strategy=end, which pushes once; leave it out.",
    ),
    (
        {"hub.push_to_hub": True, "hub.hub_strategy": "checkpoint", "checkpoint.save_strategy": "no"},
        "hub.hub_strategy: 'checkpoint' has no effect without checkpoints; leave it out.",
    ),
    (
        {"hub.push_to_hub": True, "hub.hub_always_push": True, "checkpoint.save_strategy": "no"},
        "hub.hub_always_push: True has no effect without checkpoints; leave it out.",
    ),
    # generation
    *[
        ({path: value}, f"{path}: {value!r} has no effect without predict_with_generate; leave it out.")
        for path, value in (
            ("generation.generation_max_length", 9),
            ("generation.generation_num_beams", 1),
            ("generation.generation_config", "there"),
        )
    ],
    (
        {"generation.predict_with_generate": True},
        "generation.predict_with_generate: True has no effect with task=train; leave it out.",
    ),
    ({"generation.generation_max_length": 0}, "generation.generation_max_length: at least 1 is wanted"),
    # what a recipe has none of
    *[
        ({path: value}, f"{path}: it is about {FOR_PROGRAMS[path]}, and a recipe has none; leave it out.")
        for path, value in (
            ("data.remove_unused_columns", False),
            ("data.label_names", ["labels"]),
            ("data.length_column_name", "size"),
            ("evaluation.prediction_loss_only", True),
            ("evaluation.include_for_metrics", ["loss"]),
            ("evaluation.eval_do_concat_batches", False),
            ("evaluation.batch_eval_metrics", True),
            ("evaluation.eval_accumulation_steps", 2),
            ("evaluation.eval_use_gather_object", True),
        )
    ],
    (
        {"logging.disable_tqdm": True},
        "logging.disable_tqdm: True has no effect without callbacks.progress; leave it out.",
    ),
    # what later work brings
    (
        {"parallel.ddp_backend": "gloo"},
        "parallel.ddp_backend: 'gloo' is not supported yet, it comes with distributed training; leave it",
    ),
]


@pytest.mark.parametrize(
    ("values", "sentence"), WRONG, ids=[sentence.partition(":")[0] for _, sentence in WRONG]
)
@pytest.mark.parametrize("place", ["recipe", "line"])
def test_every_problem_has_its_sentence_wherever_it_was_typed(
    values: dict[str, Any], sentence: str, place: str
) -> None:
    (found,) = problems(**{place: values})
    assert found.startswith(sentence)


@pytest.mark.parametrize(
    "values",
    [
        {"model.path": "there", "processor.tokenizer.train": None},
        {"data.dataloader_num_workers": 2, "data.dataloader_prefetch_factor": 4},
        {"data.streaming": True, "training.max_steps": 5, "data.shuffle_block": 64},
        {
            **VALIDATION,
            "evaluation.eval_strategy": "steps",
            "evaluation.eval_steps": 0.5,
            "evaluation.eval_delay": 2,
        },
        {**VALIDATION, "evaluation.eval_strategy": "epoch", "evaluation.greater_is_better": True},
        {**VALIDATION, "evaluation.eval_on_start": True, "evaluation.per_device_eval_batch_size": 3},
        {
            **VALIDATION,
            "evaluation.eval_strategy": "steps",
            "callbacks.early_stopping": {"early_stopping_patience": 2},
        },
        {"checkpoint.save_strategy": "epoch", "checkpoint.save_total_limit": 2},
        {"processor.tokenizer.path": "there", "processor.tokenizer.train": None},
        {"schedule": {"name": "constant"}, "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}},
        {"logging.logging_strategy": "epoch", "logging.logging_first_step": True},
        {
            "checkpoint.save_strategy": "no",
            "checkpoint.save_total_limit": None,
            "evaluation.eval_steps": None,
        },
        {"training.max_grad_norm": 0},
        {"training.max_grad_norm": None},
        {"training.gradient_checkpointing": True, "training.gradient_checkpointing_kwargs": {"debug": True}},
        {"training.use_liger_kernel": True, "training.liger_kernel_config": {"rope": False}},
        {"training.torch_compile": False, "training.torch_compile_backend": None},
        {"training.torch_compile": True, "training.torch_compile_mode": "max-autotune"},
        {"data.group_by_length": True, "data.sortish_sampler": True},
        {"data.streaming": True, "training.max_steps": 5, **VALIDATION, **EVALUATES, "data.check_rows": 5},
        {**VALIDATION, **EVALUATES, "logging.logging_strategy": "no", "logging.logging_steps": 5},
        {
            **VALIDATION,
            **EVALUATES,
            "checkpoint.load_best_model_at_end": True,
            "evaluation.eval_steps": 0.1,
            "checkpoint.save_steps": 0.3,
        },
        {
            **VALIDATION,
            "checkpoint.load_best_model_at_end": True,
            "checkpoint.save_strategy": "best",
            "evaluation.eval_strategy": "epoch",
        },
        {"hub.push_to_hub": True, "hub.hub_token": "hf_x", "hub.hub_always_push": True},
        {"hub.push_to_hub": True, "hub.hub_strategy": "end", "checkpoint.save_strategy": "no"},
        {"hub.hub_always_push": False, "data.dataloader_persistent_workers": False},
        {"callbacks.progress": {}, "logging.disable_tqdm": True},
    ],
    ids=str,
)
def test_what_belongs_together_is_right(values: dict[str, Any]) -> None:
    assert problems(recipe=values) == []
    assert problems(line=values) == []


def test_all_problems_are_said_at_once() -> None:
    found = problems(
        recipe={"trainin.max_steps": 3, "optimizer.learning_rate": "fast", "checkpoint.save_strategy": "no"},
        line={
            "evaluation.eval_steps": 3,
            "parallel.ddp_backend": "gloo",
            "checkpoint.save_total_limit": 2,
            "model.preset": "x",
        },
    )
    assert [text.partition(":")[0] for text in found] == [
        "optimizer.learning_rate",
        "trainin",
        "parallel.ddp_backend",
        "checkpoint.save_total_limit",
        "evaluation.eval_steps",
        "model.preset",
    ]
    found = problems(line={"data.max_length": 0, "data.max_truncated": 2, "data.shuffle_block": 64})
    assert [text.partition(":")[0] for text in found] == [
        "data.max_length",
        "data.max_truncated",
        "data.shuffle_block",
    ]


def test_a_problem_is_said_once() -> None:
    """A section that cannot be decoded is not judged on top of it."""
    assert problems(line={"data.train": 3}) == ["data.train: a mapping is wanted, 3 was given."]
    assert problems(line={"processor.tokenizer.train": "bpp"}) == [
        "processor.tokenizer.train: 'bpp' is none of its values; did you mean 'bpe'?"
    ]


# -- who wins --------------------------------------------------------------------------------------

IDLE = {"evaluation.eval_steps": 5, "evaluation.per_device_eval_batch_size": 4, **VALIDATION}
OFF = {"evaluation.eval_strategy": "no"}


def test_what_a_recipe_says_is_silently_idle_when_the_command_line_switches_it_off() -> None:
    recipe = {
        **IDLE,
        "evaluation.eval_strategy": "steps",
        "callbacks.early_stopping": {"early_stopping_patience": 2},
    }
    assert problems(recipe=recipe) == []
    assert problems(recipe=recipe, line=OFF) == []
    assert len(problems(recipe={**recipe, **OFF})) == 3, "in one recipe they contradict each other"
    assert len(problems(recipe={**IDLE, **OFF})) == 2
    assert len(problems(recipe=OFF, line=IDLE)) == 3, "typed on top of the recipe, and without effect"


def test_a_path_on_the_command_line_replaces_the_recipes_model() -> None:
    recipe = {"model.preset": "tiny", "model.config.hidden_size": 32, "processor.tokenizer.train": "bpe"}
    assert problems(recipe=recipe, line={"model.path": "there"}) == []
    assert len(problems(recipe={"model.path": "there"}, line={"model.config.hidden_size": 32})) == 1


def test_a_preset_on_the_command_line_and_a_path_in_the_recipe_is_said() -> None:
    """The path would silently win over what was typed."""
    assert problems(recipe={"model.path": "there"}, line={"model.preset": "tiny"}) == [
        "model.preset: 'tiny' has no effect with the recipe's model.path; leave it out."
    ]
    assert problems(recipe={"model.path": "there"}, line={"model.preset": "tiny", "model.path": None}) == []


def test_steps_on_the_command_line_win_over_the_recipes_epochs() -> None:
    assert problems(recipe={"training.num_train_epochs": 3}, line={"training.max_steps": 5}) == []


def test_epochs_on_the_command_line_without_effect_are_said() -> None:
    recipe, line = {"training.max_steps": 5}, {"training.num_train_epochs": 3}
    assert problems(recipe=recipe, line=line) == [
        "training.num_train_epochs: 3.0 has no effect with the recipe's training.max_steps; leave it out."
    ]
    assert problems(recipe=recipe, line={**line, "training.max_steps": -1}) == []


def test_defaults_never_contradict() -> None:
    base = {
        **BASE,
        "checkpoint": {"save_strategy": "no", "save_total_limit": 3},
        "training": {"max_steps": 3},
    }
    assert problems(base=base) == []


# -- another choice drops the recipe's options -------------------------------------------------------


def test_options_of_the_recipes_choice_are_left_out_for_another_choice() -> None:
    recipe = {"optimizer.adam_beta2": 0.95, "optimizer.learning_rate": 1e-3, "schedule.warmup_ratio": 0.1}
    data, given = configuration(recipe, {"optimizer.name": "sgd", "schedule.name": "constant"})
    kept, notes = without_foreign(data, given)
    assert kept["optimizer"] == {"name": "sgd", "learning_rate": 1e-3}
    assert kept["schedule"] == {"name": "constant"}
    assert notes == [
        "optimizer=sgd has no adam_beta2; the recipe's is left out.",
        "schedule=constant has no warmup_ratio; the recipe's is left out.",
    ]
    assert data["optimizer"]["adam_beta2"] == 0.95, "what was given is as it was"
    judged(kept, given)


def test_options_typed_for_another_choice_stay_and_are_judged() -> None:
    data, given = configuration({}, {"optimizer.name": "sgd", "optimizer.adam_beta2": 0.9})
    kept, notes = without_foreign(data, given)
    assert notes == []
    with pytest.raises(ConfigError, match=r"^optimizer\.adam_beta2: no such key; known are"):
        judged(kept, given)


def test_nothing_is_left_out_without_another_choice() -> None:
    data, given = configuration(
        {"optimizer.adam_bta2": 0.95, "optimizer.name": "sgd"}, {"training.max_steps": 3}
    )
    assert without_foreign(data, given) == (data, [])
    data, given = configuration({"optimizer.momentum": 0.9}, {"optimizer.name": "sdg"})
    kept, _ = without_foreign(data, given)
    with pytest.raises(ConfigError, match=r"^optimizer\.name: there is no 'sdg'; did you mean 'sgd'\?"):
        judged(kept, given)


# -- what a folder or a preset decides -----------------------------------------------------------------


def test_a_tokenizer_beside_the_one_that_the_model_brings(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    model = {"model.path": str(tmp_path)}
    recipe = {"processor.tokenizer.train": "bpe", "processor.tokenizer.vocab_size": 99}
    assert problems(recipe=recipe, line=model) == [], "the recipe's is replaced"
    reason = "has no effect where model.path brings its own tokenizer; leave it out."
    assert problems(line=model | recipe) == [
        f"processor.tokenizer.train: 'bpe' {reason}",
        f"processor.tokenizer.vocab_size: 99 {reason}",
    ]
    (tmp_path / "tokenizer.json").unlink()
    assert problems(line=model | recipe) == []


def test_a_preset_and_what_changes_it_must_fit_together() -> None:
    (found,) = problems(line={"model.config.num_attention_heads": 7, "model.config.num_key_value_heads": 7})
    assert found.startswith("model.config.num_attention_heads: 7 does not divide hidden_size, which is 64")


# -- runs that do not train ----------------------------------------------------------------------------

EVALUATE = {"task": "evaluate", "model.path": "there", **VALIDATION}
PREDICT = {"task": "predict", "model.path": "there", "data.test.mine": {"path": "x.jsonl", "format": "chat"}}


@pytest.mark.parametrize("task", [EVALUATE, PREDICT], ids=["evaluate", "predict"])
def test_a_task_needs_weights_and_data(task: dict[str, Any]) -> None:
    assert problems(line=task) == []
    name, split = task["task"], next(path.split(".")[1] for path in task if path.startswith("data."))
    assert problems(line={**task, "model.path": None}) == [
        f"task: {name!r} needs weights; give model.path, a folder or a finished run."
    ]
    assert problems(line={"task": name, "model.path": "there"}) == [
        f"data.{split}: task={name} needs a source; give data.{split}.NAME.path and .format."
    ]


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("training.max_steps", 5, "5"),
        ("training.torch_compile", True, "True"),
        ("optimizer.learning_rate", 1e-3, "0.001"),
        ("schedule.warmup_steps", 5, "5.0"),
        ("checkpoint.save_steps", 5, "5.0"),
        ("evaluation.eval_strategy", "epoch", "'epoch'"),
        ("logging.logging_steps", 5, "5.0"),
        ("logging.include_num_input_tokens_seen", "all", "'all'"),
        ("hub.push_to_hub", True, "True"),
        ("resume", "auto", "'auto'"),
        ("data.streaming", True, "True"),
        ("data.shuffle", False, "False"),
        ("data.group_by_length", True, "True"),
        ("data.dataloader_drop_last", True, "True"),
    ],
)
def test_what_is_about_training_has_no_effect_in_a_task(path: str, value: Any, shown: str) -> None:
    sentence = f"{path}: {shown} has no effect with task=evaluate; leave it out."
    assert sentence in problems(line={**EVALUATE, path: value})
    assert problems(recipe={path: value}, line=EVALUATE) == [], "a recipe may be asked for another task"


def test_what_a_task_looks_at_it_may_be_told() -> None:
    looked_at = {
        "training.seed": 3,
        "training.full_determinism": True,
        "training.num_threads": 1,
        "training.label_smoothing_factor": 0.1,
        "evaluation.per_device_eval_batch_size": 3,
        "precision.bf16_full_eval": True,
        "logging.log_level": "error",
        "logging.skip_memory_metrics": False,
        "data.dataloader_num_workers": 2,
        "data.packing": True,
        "metrics.accuracy": {},
    }
    assert problems(line={**EVALUATE, **looked_at}) == []


def test_sources_that_nothing_reads_and_callbacks_that_nothing_calls() -> None:
    source = {"path": "x.jsonl", "format": "chat"}
    assert problems(line={"data.test.mine": source}) == [
        "data.test: it is not read with task=train; leave it out."
    ]
    assert problems(recipe={"data.test.mine": source}) == [], "it is for another task"
    assert problems(line={**PREDICT, **VALIDATION}) == [
        "data.validation: it is not read with task=predict; leave it out."
    ]
    assert problems(line={**EVALUATE, "callbacks.samples": {"prompts": ["Hello"]}}) == [
        "callbacks.samples: nothing calls it with task=evaluate; leave it out."
    ]
    assert problems(recipe={"callbacks.samples": {"prompts": ["Hello"]}}, line=EVALUATE) == []
    assert problems(line={**PREDICT, "data.packing": True}) == [
        "data.packing: True has no effect with task=predict, which writes of each row; leave it out."
    ]
    beams = {"generation.predict_with_generate": True, "generation.generation_num_beams": 2}
    assert problems(line={**PREDICT, **beams}) == [
        "generation.generation_num_beams: 2 beams need a search that is not built; leave it out or at 1."
    ]
    assert problems(line={**PREDICT, **beams, "generation.generation_num_beams": 1}) == []


def test_a_switch_on_the_command_line_against_a_recipes_backend() -> None:
    off = {"training.torch_compile": False}
    recipe = {"training.torch_compile_backend": "eager"}
    assert problems(recipe=recipe, line=off) == [
        "training.torch_compile: False was given, and training.torch_compile_backend turns it on; leave one "
        "of them out."
    ]
    assert problems(recipe=recipe, line={**off, "training.torch_compile_backend": None}) == []


def test_data_is_skipped_where_a_run_goes_on() -> None:
    skip = {"checkpoint.ignore_data_skip": True}
    assert problems(line=skip) == [
        "checkpoint.ignore_data_skip: true has no effect without resume; leave it out."
    ]
    assert problems(line={**skip, "resume": "auto"}) == []
    assert problems(recipe=skip) == [], "it is for a later start"


# -- Python programs -----------------------------------------------------------------------------------


def said(**arguments: Any) -> list[str]:
    """What is said of training arguments."""
    found = found_in(*run_config(Seq2SeqTrainingArguments(**arguments)))
    return [in_flat_names(sentence) for sentence in found]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"max_steps": 5, "num_train_epochs": 2},
            "max_steps: given together with num_train_epochs, and only one of them can hold; leave one out.",
        ),
        (
            {"eval_steps": 5},
            "eval_steps: 5.0 has no effect with eval_strategy=no; leave it out.",
        ),
        (
            {"dataloader_prefetch_factor": 5},
            "dataloader_prefetch_factor: 5 has no effect without dataloader_num_workers; leave it out.",
        ),
        (
            {"length_column_name": "n"},
            "length_column_name: 'n' has no effect without group_by_length; leave it out.",
        ),
        (
            {"hub_token": "hf_TheSecret"},
            "hub_token: <HUB_TOKEN> has no effect without push_to_hub; leave it out.",
        ),
        (
            {"generation_max_length": 9},
            "generation_max_length: 9 has no effect without predict_with_generate; leave it out.",
        ),
        (
            {"load_best_model_at_end": True, "eval_strategy": "epoch"},
            "load_best_model_at_end: every evaluated step must be saved; set save_strategy: epoch, or best.",
        ),
        (
            {"prediction_loss_only": True, "eval_accumulation_steps": 2},
            "eval_accumulation_steps: 2 has no effect with prediction_loss_only; leave it out.",
        ),
        (
            {"prediction_loss_only": True, "include_for_metrics": ["loss"]},
            "include_for_metrics: ('loss',) has no effect with prediction_loss_only; leave it out.",
        ),
        (
            {"prediction_loss_only": True, "batch_eval_metrics": True},
            "batch_eval_metrics: True has no effect with prediction_loss_only; leave it out.",
        ),
        (
            {"batch_eval_metrics": True, "eval_do_concat_batches": False},
            "eval_do_concat_batches: False has no effect with batch_eval_metrics; leave it out.",
        ),
        (
            {"torch_compile": False, "torch_compile_mode": "default"},
            "torch_compile: False was given, and torch_compile_mode turns it on; leave one of them out.",
        ),
    ],
)
def test_a_program_is_told_in_its_own_names(arguments: dict[str, Any], sentence: str) -> None:
    assert said(**arguments) == [sentence]


def test_what_a_program_does_itself_is_not_judged() -> None:
    """It may evaluate, predict and resume by calls that no argument tells of."""
    assert (
        said(
            per_device_eval_batch_size=3,
            prediction_loss_only=True,
            bf16_full_eval=True,
            ignore_data_skip=True,
            do_eval=True,
            use_cache=True,
            disable_tqdm=True,
        )
        == []
    )


# -- machines ------------------------------------------------------------------------------------------


def test_what_does_nothing_on_this_machine_is_said() -> None:
    arguments = {
        "dataloader_pin_memory": True,
        "average_tokens_across_devices": False,
        "log_level_replica": "error",
        "log_on_each_node": False,
    }
    config, given = run_config(Seq2SeqTrainingArguments(**arguments))
    assert given.keys() == {HOMES[name] for name in arguments}
    assert list(idle_here(config, given, device="cpu", world_size=1)) == [
        "data.dataloader_pin_memory: true has no effect on a CPU; batches stay where they are.",
        "training.average_tokens_across_devices: it has no effect on a single process.",
        "logging.log_level_replica: it has no effect on a single process.",
        "logging.log_on_each_node: it has no effect on a single process.",
    ]
    assert list(idle_here(config, given, device="cuda", world_size=2)) == []
    assert list(idle_here(config, {}, device="cpu", world_size=1)) == [], "defaults are no one's claim"
