"""The table of the reference's arguments: complete, at home, with the reference's defaults, and honest."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conf.decode import Chosen, decode
from conf.plugins import options_of
from trainer.arguments import ARGUMENTS, DIFFERENT_DEFAULTS, HOMES, Argument, flat, read, refused
from trainer.config import RunConfig
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.schedules import CATALOG as SCHEDULES

# The signature of Seq2SeqTrainingArguments on the reference page, defaults included (version 5.0).
REFERENCE: dict[str, Any] = {
    "output_dir": None,
    "do_train": False,
    "do_eval": False,
    "do_predict": False,
    "eval_strategy": "no",
    "prediction_loss_only": False,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": None,
    "eval_delay": 0,
    "torch_empty_cache_steps": None,
    "learning_rate": 5e-05,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-08,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_ratio": None,
    "warmup_steps": 0,
    "log_level": "passive",
    "log_level_replica": "warning",
    "log_on_each_node": True,
    "logging_dir": None,
    "logging_strategy": "steps",
    "logging_first_step": False,
    "logging_steps": 500,
    "logging_nan_inf_filter": True,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": None,
    "enable_jit_checkpoint": False,
    "save_on_each_node": False,
    "save_only_model": False,
    "restore_callback_states_from_checkpoint": False,
    "use_cpu": False,
    "seed": 42,
    "data_seed": None,
    "bf16": False,
    "fp16": False,
    "bf16_full_eval": False,
    "fp16_full_eval": False,
    "tf32": None,
    "local_rank": -1,
    "ddp_backend": None,
    "debug": "",
    "dataloader_drop_last": False,
    "eval_steps": None,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": None,
    "run_name": None,
    "disable_tqdm": None,
    "remove_unused_columns": True,
    "label_names": None,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "ignore_data_skip": False,
    "fsdp": None,
    "fsdp_config": None,
    "accelerator_config": None,
    "parallelism_config": None,
    "deepspeed": None,
    "label_smoothing_factor": 0.0,
    "optim": "adamw_torch_fused",
    "optim_args": None,
    "group_by_length": False,
    "length_column_name": "length",
    "report_to": "none",
    "project": "huggingface",
    "trackio_space_id": "trackio",
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": False,
    "skip_memory_metrics": True,
    "push_to_hub": False,
    "resume_from_checkpoint": None,
    "hub_model_id": None,
    "hub_strategy": "every_save",
    "hub_token": None,
    "hub_private_repo": None,
    "hub_always_push": False,
    "hub_revision": None,
    "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None,
    "include_for_metrics": (),
    "eval_do_concat_batches": True,
    "auto_find_batch_size": False,
    "full_determinism": False,
    "ddp_timeout": 1800,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "include_num_input_tokens_seen": "no",
    "neftune_noise_alpha": None,
    "optim_target_modules": None,
    "batch_eval_metrics": False,
    "eval_on_start": False,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
    "eval_use_gather_object": False,
    "average_tokens_across_devices": True,
    "use_cache": False,
    "sortish_sampler": False,
    "predict_with_generate": False,
    "generation_max_length": None,
    "generation_num_beams": None,
    "generation_config": None,
}

# Added after that version, or taken out again: not promised.
LATER_OR_GONE = {
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "ddp_static_graph",
    "trackio_bucket_id",
    "trackio_static_space_id",
    "train_sampling_strategy",
}

# Arguments that are more than one value here, so that no default can be compared.
SECTIONS = {"do_train", "do_eval", "do_predict", "optim_args", "lr_scheduler_kwargs"}

# A path that no option has yet; the table says who brings it.
NOT_YET = {"optim_target_modules": "optimizers"}

DEFAULT = decode(RunConfig, {})


def test_no_argument_of_the_reference_is_missing() -> None:
    assert len(REFERENCE) == 109 + 5
    assert [argument.name for argument in ARGUMENTS if argument.name not in REFERENCE] == []
    assert sorted(REFERENCE.keys() - HOMES.keys()) == []
    assert len(ARGUMENTS) == len(HOMES), "no name twice"


def test_the_oracle_knows_no_other() -> None:
    import transformers

    names = {field.name for field in dataclasses.fields(transformers.Seq2SeqTrainingArguments)}
    assert names - HOMES.keys() == LATER_OR_GONE & names
    assert len(names & HOMES.keys()) > 100, "most of the page's names are still there"


def _exists(path: str, cls: type = RunConfig) -> bool:
    name, _, rest = path.partition(".")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if name not in fields:
        return False
    if not rest:
        return True
    if name in ("optimizer", "schedule"):
        catalog = OPTIMIZERS if name == "optimizer" else SCHEDULES
        options = (options_of(catalog, key, name) for key in catalog)
        return rest == "name" or any(
            rest in {f.name for f in dataclasses.fields(option)} for option in options
        )
    return _exists(rest, type(getattr(DEFAULT, name)))


@pytest.mark.parametrize("argument", ARGUMENTS, ids=lambda argument: argument.name)
def test_every_argument_has_a_home(argument: Argument) -> None:
    assert _exists(argument.path) != (argument.name in NOT_YET)
    assert NOT_YET.get(argument.name, argument.brought_by) == argument.brought_by
    assert argument.meaning
    leaf = argument.path.rpartition(".")[2]
    renamed = {"resume_from_checkpoint": "resume", "optim": "name", "lr_scheduler_type": "name"}
    if argument.name not in SECTIONS:
        assert leaf == renamed.get(argument.name, argument.name), "leaf names are the reference's"


def test_no_two_arguments_share_a_home() -> None:
    homes = [argument.path for argument in ARGUMENTS if argument.name not in SECTIONS]
    assert len(homes) == len(set(homes))


@pytest.mark.parametrize("name", [name for name in REFERENCE if name not in SECTIONS])
def test_defaults_are_the_references_but_for_those_that_say_why(name: str) -> None:
    ours = read(DEFAULT, HOMES[name])
    if name in DIFFERENT_DEFAULTS:
        assert ours != REFERENCE[name], "it is listed as different"
        assert DIFFERENT_DEFAULTS[name]
    else:
        assert ours == REFERENCE[name]


def test_different_defaults_are_arguments() -> None:
    assert DIFFERENT_DEFAULTS.keys() <= HOMES.keys()


def test_the_defaults_are_carried_out() -> None:
    assert list(refused(DEFAULT)) == []


def _with(path: str, value: Any, config: Any = DEFAULT) -> Any:
    """The configuration with another value at ``path``, whatever the type."""
    name, _, rest = path.partition(".")
    inner = getattr(config, name)
    if isinstance(inner, Chosen):
        return dataclasses.replace(config, **{name: Chosen(inner.name, _with(rest, value, inner.options))})
    return dataclasses.replace(config, **{name: _with(rest, value, inner) if rest else value})


def _values(argument: Argument) -> list[Any]:
    """Values of the types that the field takes, which the user might give."""
    default = read(DEFAULT, argument.path)
    others: list[Any] = [True, False, 7, 0.5, "x", ("x",), {"a": 1}]
    hints = {"eval_strategy": ["steps"], "save_strategy": ["epoch"], "logging_strategy": ["no"]}
    if argument.name in hints:
        return hints[argument.name]
    if default is None:
        return others
    if isinstance(default, bool):
        return [not default]
    return [type(default)(other) for other in (7, 3) if not isinstance(default, tuple)] or [("x",)]


PLAIN = [a for a in ARGUMENTS if a.name not in SECTIONS | NOT_YET.keys() and not a.path.endswith(".name")]


@pytest.mark.parametrize("argument", [a for a in PLAIN if a.runs is not None], ids=lambda a: a.name)
def test_what_does_not_run_yet_is_refused_in_one_sentence(argument: Argument) -> None:
    assert argument.runs is not None
    values = ["best"] if argument.name == "save_strategy" else _values(argument)
    tried = [value for value in values if value not in argument.runs]
    assert tried, "there is something to refuse"
    for value in tried:
        (sentence,) = refused(_with(argument.path, value))
        assert sentence.startswith(f"{argument.path}: {value!r} is not supported yet; leave it out")
        assert sentence.endswith(".")
    for value in argument.runs:
        assert list(refused(_with(argument.path, value))) == []


@pytest.mark.parametrize("argument", [a for a in PLAIN if a.runs is None], ids=lambda a: a.name)
def test_nothing_else_is_refused(argument: Argument) -> None:
    for value in _values(argument):
        if argument.path == "data.dataloader_prefetch_factor" or argument.name == "warmup_ratio":
            value = 1
        elif argument.name in ("eval_steps", "max_grad_norm", "save_total_limit", "adam_beta1", "adam_beta2"):
            value = 0.5 if argument.name.startswith("adam") else 7
        assert list(refused(_with(argument.path, value))) == []


def test_the_sentence_names_what_would_do() -> None:
    config = _with("evaluation.prediction_loss_only", True)
    assert list(refused(config)) == [
        "evaluation.prediction_loss_only: True is not supported yet; leave it out or at False."
    ]
    assert list(refused(_with("checkpoint.save_strategy", "best"))) == [
        "checkpoint.save_strategy: 'best' is not supported yet; leave it out or at 'no' or 'steps' or "
        "'epoch'."
    ]
    assert list(refused(_with("parallel.fsdp", "full_shard"))) == [
        "parallel.fsdp: 'full_shard' is not supported yet; leave it out or at False."
    ]


def test_the_flat_view_has_the_references_names_and_values() -> None:
    view = flat(
        decode(RunConfig, {"optimizer": {"learning_rate": 1e-3}, "evaluation": {"eval_strategy": "steps"}})
    )
    assert vars(view).keys() == HOMES.keys()
    assert view.learning_rate == 1e-3
    assert view.optim == "adamw_torch_fused"
    assert view.lr_scheduler_type == "linear"
    assert (view.do_train, view.do_eval, view.do_predict) == (True, True, False)
    assert not flat(DEFAULT).do_eval
    assert not any(isinstance(value, Chosen) for value in vars(view).values())
    different = {
        name for name, value in vars(flat(DEFAULT)).items() if value != REFERENCE[name] and name != "do_train"
    }
    assert different == DIFFERENT_DEFAULTS.keys()
