"""What no single field can know: contradictions and options without effect, and who wins over whom."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conf.decode import leaves
from conf.errors import ConfigError
from trainer.checks import judged, without_foreign
from trainer.config import RunConfig

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
    ({"model.given": True}, "model.given: only a Python program gives one; leave it out."),
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
    ({"processor.given": True}, "processor.given: only a Python program gives one; leave it out."),
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
    ({"data.given": True}, "data.given: only a Python program gives one; leave it out."),
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
        {"callbacks.early_stopping": {"patience": 2}},
        "callbacks.early_stopping: it stops on evaluation results, and there are none; set "
        "evaluation.eval_strategy.",
    ),
    (
        {"callbacks.second": {"name": "early_stopping"}},
        "callbacks.second: it stops on evaluation results, and there are none; set evaluation.eval_strategy.",
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
        {"callbacks": {"early_stopping": {"patience": 0}}},
        "callbacks.early_stopping.patience: at least 1 is wanted",
    ),
    ({"precision.fp16": True}, "precision.fp16: True is not supported yet; leave it out or at False."),
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
        {**VALIDATION, "evaluation.eval_strategy": "steps", "callbacks.early_stopping": {"patience": 2}},
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
            "precision.fp16": True,
            "checkpoint.save_total_limit": 2,
            "model.preset": "x",
        },
    )
    assert [text.partition(":")[0] for text in found] == [
        "optimizer.learning_rate",
        "trainin",
        "precision.fp16",
        "model.preset",
        "evaluation.eval_steps",
        "checkpoint.save_total_limit",
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
    recipe = {**IDLE, "evaluation.eval_strategy": "steps", "callbacks.early_stopping": {"patience": 2}}
    assert problems(recipe=recipe) == []
    assert problems(recipe=recipe, line=OFF) == []
    assert len(problems(recipe={**recipe, **OFF})) == 3, "in one recipe they contradict each other"
    assert len(problems(recipe={**IDLE, **OFF})) == 2
    assert len(problems(recipe=OFF, line=IDLE)) == 2, "typed on top of the recipe, and without effect"


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
