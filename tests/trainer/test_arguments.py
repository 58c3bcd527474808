"""The table of the reference's arguments: complete, at home, with the reference's defaults, and honest."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conf.decode import Chosen, decode, encode
from conf.errors import ConfigError
from conf.plugins import options_of
from trainer.argument_values import AcceleratorShape, FSDPShape, ParallelismShape
from trainer.arguments import (
    ARGUMENTS,
    DIFFERENT_DEFAULTS,
    HOMES,
    REFERENCE_DEFAULTS,
    Argument,
    flat,
    in_flat_names,
    nested,
    read,
    refused,
    run_config,
)
from trainer.checks import judged
from trainer.config import RunConfig
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.schedules import CATALOG as SCHEDULES
from trainer.training_arguments import Seq2SeqTrainingArguments, TrainingArguments, defaults

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
    "include_for_metrics": [],
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

# The other value of these is refused for good.
NEVER = {"logging_nan_inf_filter"}

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
    assert _exists(argument.path)
    assert argument.meaning
    assert not argument.meaning.endswith("."), "a fragment of a sentence"
    assert bool(argument.brought_by) == (argument.runs is not None), (
        "what does not run yet says what brings it"
    )
    leaf = argument.path.rpartition(".")[2]
    renamed = {"resume_from_checkpoint": "resume", "optim": "name", "lr_scheduler_type": "name"}
    if argument.name not in SECTIONS:
        assert leaf == renamed.get(argument.name, argument.name), "leaf names are the reference's"


def test_no_two_arguments_share_a_home() -> None:
    homes = [argument.path for argument in ARGUMENTS if argument.name not in SECTIONS]
    assert len(homes) == len(set(homes))


@pytest.mark.parametrize("name", [name for name in REFERENCE if name not in SECTIONS])
def test_defaults_are_the_references_but_for_those_that_say_why(name: str) -> None:
    ours = encode(read(DEFAULT, HOMES[name]))
    if name in DIFFERENT_DEFAULTS:
        assert ours != REFERENCE[name], "it is listed as different"
        assert DIFFERENT_DEFAULTS[name]
    else:
        assert ours == REFERENCE[name]


def test_different_defaults_are_arguments() -> None:
    assert DIFFERENT_DEFAULTS.keys() <= HOMES.keys()
    assert {name: REFERENCE[name] for name in DIFFERENT_DEFAULTS} == REFERENCE_DEFAULTS


def test_the_defaults_are_carried_out() -> None:
    assert list(refused(DEFAULT)) == []


def _with(path: str, value: Any, config: Any = DEFAULT) -> Any:
    """The configuration with another value at ``path``, whatever the type."""
    name, _, rest = path.partition(".")
    inner = getattr(config, name)
    if isinstance(inner, Chosen):
        return dataclasses.replace(config, **{name: Chosen(inner.name, _with(rest, value, inner.options))})
    return dataclasses.replace(config, **{name: _with(rest, value, inner) if rest else value})


PLAIN = [a for a in ARGUMENTS if a.name not in SECTIONS and not a.path.endswith(".name")]


def _sampled(argument: Argument) -> RunConfig:
    given = {**WITH.get(argument.name, {}), argument.name: _sample(argument.name)}
    return run_config(Seq2SeqTrainingArguments(**given))[0]


@pytest.mark.parametrize("argument", [a for a in PLAIN if a.runs is not None], ids=lambda a: a.name)
def test_what_does_not_run_yet_is_refused_in_one_sentence(argument: Argument) -> None:
    assert argument.runs is not None
    config = _sampled(argument)
    value = read(config, argument.path)
    assert value not in argument.runs, "there is something to refuse"
    (sentence,) = refused(config)
    shown = "<HUB_TOKEN>" if argument.name == "hub_token" else repr(value)
    start = (
        f"{argument.path}: {shown} is not supported yet, it comes with {argument.brought_by}; leave it out"
    )
    assert sentence.startswith(start)
    assert sentence.endswith(".")
    for value in argument.runs:
        if value is not False or isinstance(read(DEFAULT, argument.path), bool):
            assert list(refused(_with(argument.path, value))) == []


@pytest.mark.parametrize("argument", [a for a in PLAIN if a.runs is None], ids=lambda a: a.name)
def test_nothing_else_is_refused(argument: Argument) -> None:
    if argument.name not in NEVER:
        assert list(refused(_sampled(argument))) == []


def test_the_sentence_names_what_would_do() -> None:
    assert list(refused(_with("parallel.ddp_timeout", 60))) == [
        "parallel.ddp_timeout: 60 is not supported yet, it comes with distributed training; leave it out or "
        "at 1800."
    ]
    assert list(refused(_with("parallel.local_rank", 3))) == [
        "parallel.local_rank: 3 is not supported yet, it comes with distributed training; leave it out or "
        "at -1."
    ]


def test_what_can_never_matter_says_why() -> None:
    for path, value, word in (
        ("logging.debug", "underflow_overflow tpu_metrics_debug", "tpu_metrics_debug"),
        ("parallel.fsdp_config", {"xla": True, "min_num_params": 0}, "xla"),
    ):
        assert list(refused(_with(path, value))) == [
            f"{path}: {word!r} is for TPUs, which nothing here runs on; leave it out."
        ]
    assert list(refused(_with("logging.logging_nan_inf_filter", True))) == [
        "logging.logging_nan_inf_filter: True would hide that a loss is not finite, which is never done; "
        "leave it out."
    ]


def test_the_flat_view_has_the_references_names_and_values() -> None:
    view = flat(
        decode(RunConfig, {"optimizer": {"learning_rate": 1e-3}, "evaluation": {"eval_strategy": "steps"}})
    )
    assert view.to_dict().keys() == HOMES.keys()
    assert view.learning_rate == 1e-3
    assert view.optim == "adamw_torch_fused"
    assert view.lr_scheduler_type == "linear"
    assert (view.do_train, view.do_eval, view.do_predict) == (True, True, False)
    assert not flat(DEFAULT).do_eval
    values = {name: getattr(flat(DEFAULT), name) for name in HOMES}
    assert not any(isinstance(value, Chosen) for value in values.values())
    different = {name for name, value in values.items() if value != REFERENCE[name] and name != "do_train"}
    assert different == DIFFERENT_DEFAULTS.keys()


def test_what_an_optimizer_does_not_have_is_at_its_default_in_the_flat_view() -> None:
    view = flat(decode(RunConfig, {"optimizer": {"name": "sgd"}, "schedule": {"name": "constant"}}))
    assert (view.optim, view.adam_beta1, view.warmup_steps) == ("sgd", 0.9, 0)


# -- from flat arguments to the configuration and back ------------------------------------------------

# A value of each argument that is not its default. A truth value is turned round and needs no line here.
SAMPLES: dict[str, Any] = {
    "output_dir": "runs/mine",
    "eval_strategy": "epoch",
    "per_device_train_batch_size": 3,
    "per_device_eval_batch_size": 3,
    "gradient_accumulation_steps": 3,
    "eval_accumulation_steps": 3,
    "eval_delay": 2.5,
    "torch_empty_cache_steps": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "adam_beta1": 0.8,
    "adam_beta2": 0.99,
    "adam_epsilon": 1e-6,
    "max_grad_norm": 0.5,
    "num_train_epochs": 1.5,
    "max_steps": 20,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"num_cycles": 1.5},
    "warmup_ratio": 0.1,
    "warmup_steps": 10,
    "log_level": "info",
    "log_level_replica": "error",
    "logging_dir": "logs",
    "logging_strategy": "epoch",
    "logging_steps": 0.25,
    "save_strategy": "best",
    "save_steps": 50,
    "save_total_limit": 2,
    "seed": 7,
    "data_seed": 8,
    "tf32": False,
    "local_rank": 0,
    "ddp_backend": "gloo",
    "debug": "underflow_overflow",
    "eval_steps": 5,
    "dataloader_num_workers": 2,
    "dataloader_prefetch_factor": 4,
    "run_name": "first",
    "disable_tqdm": True,
    "label_names": ["start", "end"],
    "metric_for_best_model": "accuracy",
    "greater_is_better": True,
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"min_num_params": 100},
    "accelerator_config": {"split_batches": True},
    "parallelism_config": {"tp_size": 2},
    "deepspeed": {"zero_optimization": {"stage": 2}},
    "label_smoothing_factor": 0.1,
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "length_column_name": "size",
    "report_to": ["tensorboard"],
    "project": "mine",
    "trackio_space_id": "space",
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 10,
    "ddp_broadcast_buffers": True,
    "resume_from_checkpoint": "runs/mine/checkpoint-5",
    "hub_model_id": "me/mine",
    "hub_strategy": "end",
    "hub_token": "hf_x",
    "hub_private_repo": True,
    "hub_revision": "next",
    "gradient_checkpointing_kwargs": {"use_reentrant": True},
    "include_for_metrics": ["inputs"],
    "ddp_timeout": 60,
    "torch_compile_backend": "eager",
    "torch_compile_mode": "default",
    "include_num_input_tokens_seen": "all",
    "neftune_noise_alpha": 5.0,
    "optim_target_modules": ["q_proj"],
    "liger_kernel_config": {"rope": True},
    "generation_max_length": 20,
    "generation_num_beams": 2,
    "generation_config": "folder",
}
# What must be chosen first for an option to be there.
WITH: dict[str, dict[str, Any]] = {
    "optim_args": {"optim": "sgd"},
    "lr_scheduler_kwargs": {"lr_scheduler_type": "cosine"},
    "optim_target_modules": {"optim": "galore_adamw"},
}
SPREAD = {"optim_args": "optimizer.momentum", "lr_scheduler_kwargs": "schedule.num_cycles"}


def _sample(name: str) -> Any:
    return SAMPLES[name] if name in SAMPLES else not defaults()[name]


@pytest.mark.parametrize("name", [name for name in REFERENCE if name not in NEVER])
def test_a_given_argument_comes_back_from_the_configuration(name: str) -> None:
    value, first = _sample(name), WITH.get(name, {})
    assert value != defaults()[name]
    config, given = run_config(Seq2SeqTrainingArguments(**first, **{name: value}))
    assert getattr(flat(config), name) == value
    homes = {SPREAD.get(name, HOMES[name]), *(HOMES[chosen] for chosen in first)}
    # a strategy of evaluation other than `no` is training, which a recipe does anyway
    assert given == dict.fromkeys(sorted(homes), "python")
    assert {section: getattr(config, section).given for section in ("model", "processor", "data")} == {
        "model": True,
        "processor": True,
        "data": True,
    }
    again, _ = run_config(flat(config))
    assert again == config


@pytest.mark.parametrize("name", [name for name in REFERENCE if not name.startswith("do_")])
def test_a_wrong_value_is_named_by_its_argument(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_config(Seq2SeqTrainingArguments(**{name: [{}]}))
    (problem,) = error.value.problems
    assert problem.startswith((f"{name}: ", f"{name}[0]: "))
    assert problem.endswith((".", "?"))


def test_nothing_given_is_the_default_configuration() -> None:
    config, given = run_config(TrainingArguments())
    sections = {section: {"given": True} for section in ("model", "processor", "data")}
    assert (config, given) == (decode(RunConfig, sections), {})


def test_every_problem_is_said_at_once() -> None:
    args = TrainingArguments(
        learning_rate="fast",  # type: ignore[arg-type]
        optim="sgd",
        adam_beta1=0.8,
        optim_args="name=x,learning_rate=1,speed=2",
        lr_scheduler_type="cosin",
        deepspeed="nowhere.json",
        save_steps=1.5,
    )
    with pytest.raises(ConfigError) as error:
        run_config(args)
    assert set(error.value.problems) == {
        "learning_rate: a number is wanted, 'fast' was given.",
        "adam_beta1: optim 'sgd' has no such option; leave it out.",
        "optim_args.name: that is the argument optim; leave it out here.",
        "optim_args.learning_rate: that is the argument learning_rate; leave it out here.",
        "optim_args.speed: no such key; known are dampening, groups, layer_decay, "
        "learning_rate, loraplus_lr_ratio, momentum, nesterov, weight_decay.",
        "lr_scheduler_type: there is no 'cosin'; did you mean 'cosine'?",
        "deepspeed: the file 'nowhere.json' cannot be read: No such file or directory.",
        "save_steps: whole steps, or a share of all steps below 1, is wanted, 1.5 was given.",
    }


def test_an_unknown_name_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        nested({"learnin_rate": 1, "seed": 3})
    assert str(error.value) == "learnin_rate: there is no such argument; did you mean 'learning_rate'?"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("optim", "adamw_torch_xla", "is for TPUs, which nothing here runs on; leave it out."),
        ("optim", "adamw_torch_npu_fused", "is for NPUs, which nothing here runs on; leave it out."),
        ("optim", "adamw_apex_fused", "needs apex, and torch has its own; use 'adamw_torch_fused'."),
        ("debug", "tpu_metrics_debug", "is for TPUs, which nothing here runs on; leave it out."),
        ("ddp_backend", "hccl", "is for NPUs, which nothing here runs on; leave it out."),
        (
            "logging_nan_inf_filter",
            True,
            "would hide that a loss is not finite, which is never done; leave it out.",
        ),
    ],
)
def test_what_cannot_matter_here_is_refused_with_the_reason(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        nested({name: value})
    assert str(error.value) == f"{name}: {value!r} {reason}"


def test_sharding_for_tpus_is_refused_but_not_its_defaults() -> None:
    with pytest.raises(ConfigError, match=r"^fsdp_config: 'xla_fsdp_grad_ckpt' is for TPUs"):
        nested({"fsdp_config": {"xla": False, "xla_fsdp_grad_ckpt": True}})
    assert nested({"fsdp_config": {"xla": False}}) == {"parallel": {"fsdp_config": {"xla": False}}}


def test_mappings_are_taken_as_text_files_and_objects(tmp_path: Any) -> None:
    from accelerate.parallelism_config import ParallelismConfig
    from transformers.trainer_pt_utils import AcceleratorConfig

    file = tmp_path / "zero.json"
    file.write_text('{"zero_optimization": {"stage": 2}}')
    assert nested(
        {
            "deepspeed": str(file),
            "fsdp": ["full_shard", "auto_wrap"],
            "fsdp_config": '{"fsdp_min_num_params": "100", "use_orig_params": "true"}',
            "accelerator_config": AcceleratorConfig(split_batches=True),
            "parallelism_config": ParallelismConfig(tp_size=2),
            "lr_scheduler_kwargs": '{"num_cycles": 1.5}',
            "optim_args": "momentum=0.9, nesterov=True,other=None",
        }
    ) == {
        "parallel": {
            "deepspeed": {"zero_optimization": {"stage": 2}},
            "fsdp": "full_shard auto_wrap",
            "fsdp_config": {"min_num_params": 100, "use_orig_params": True},
            "accelerator_config": AcceleratorConfig(split_batches=True).to_dict(),
            "parallelism_config": nested({"parallelism_config": ParallelismConfig(tp_size=2)})["parallel"][
                "parallelism_config"
            ],
        },
        "schedule": {"num_cycles": 1.5},
        "optimizer": {"momentum": 0.9, "nesterov": True, "other": None},
    }
    assert (
        nested({"parallelism_config": ParallelismConfig(tp_size=2)})["parallel"]["parallelism_config"][
            "tp_size"
        ]
        == 2
    )


def test_the_keys_of_mappings_are_those_of_the_reference() -> None:
    from accelerate.parallelism_config import ParallelismConfig
    from transformers.trainer_pt_utils import AcceleratorConfig

    theirs = {field.name: field.default for field in dataclasses.fields(AcceleratorConfig)}
    assert {field.name: field.default for field in dataclasses.fields(AcceleratorShape)} == theirs
    names = {field.name for field in dataclasses.fields(ParallelismConfig)}
    assert {field.name for field in dataclasses.fields(ParallelismShape)} == names
    assert FSDPShape().sync_module_states
    for name, key in (
        ("accelerator_config", "split_batche"),
        ("fsdp_config", "min_num_param"),
        ("gradient_checkpointing_kwargs", "use_reentran"),
        ("parallelism_config", "tp_siz"),
    ):
        with pytest.raises(
            ConfigError, match=rf"^{name}\.{key}: no such key; did you mean '{name}\.{key}.'\?$"
        ):
            nested({name: {key: 1}})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"stage": ', "deepspeed: it is no valid JSON: "),
        ("[1]", "deepspeed: the file '[1]' cannot be read: "),
        (3, "deepspeed: a mapping, JSON text or the path of a JSON file is wanted, 3 was given."),
    ],
)
def test_text_that_is_no_mapping_is_an_error(text: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        nested({"deepspeed": text})
    assert str(error.value).startswith(sentence)


def test_options_as_text_need_an_equals_sign() -> None:
    with pytest.raises(ConfigError) as error:
        nested({"optim_args": "momentum"})
    assert str(error.value) == "optim_args: options are written key=value,key=value, 'momentum' was given."


def test_foreign_enums_and_paths_are_taken_by_value(tmp_path: Any) -> None:
    from transformers import IntervalStrategy, SchedulerType
    from transformers.training_args import OptimizerNames

    assert nested(
        {
            "output_dir": tmp_path,
            "eval_strategy": IntervalStrategy.STEPS,
            "optim": OptimizerNames.SGD,
            "lr_scheduler_type": SchedulerType.COSINE,
            "resume_from_checkpoint": True,
            "include_num_input_tokens_seen": True,
            "report_to": [],
        }
    ) == {
        "output_dir": str(tmp_path),
        "evaluation": {"eval_strategy": "steps"},
        "optimizer": {"name": "sgd"},
        "schedule": {"name": "cosine"},
        "resume": "auto",
        "logging": {"include_num_input_tokens_seen": "all", "report_to": "none"},
    }


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        ({"do_train": True, "do_eval": True, "do_predict": True}, "train"),
        ({"do_eval": True}, "evaluate"),
        ({"do_predict": True}, "predict"),
        ({"do_eval": True, "eval_strategy": "steps"}, None),
        ({"do_train": False}, None),
    ],
)
def test_the_flags_of_a_run_are_its_task(flags: dict[str, Any], task: str | None) -> None:
    assert nested(flags).get("task") == task


def test_a_judges_sentence_is_said_in_flat_names() -> None:
    assert in_flat_names("data.label_names[0]: text is wanted.") == "label_names[0]: text is wanted."
    assert in_flat_names("optimizer.name: there is no 'x'.") == "optim: there is no 'x'."
    assert in_flat_names("model.preset: choose one.") == "model.preset: choose one."


def test_a_flat_name_at_the_wrong_place_is_told_its_home() -> None:
    data = {"learning_rate": 1e-3, "training": {"learning_rate": 1e-3, "logging_steps": 5}}
    with pytest.raises(ConfigError) as error:
        judged(data, {})
    for sentence in (
        "learning_rate: no such key here; 'learning_rate' lives at 'optimizer.learning_rate'.",
        "training.learning_rate: no such key here; 'learning_rate' lives at 'optimizer.learning_rate'.",
        "training.logging_steps: no such key here; 'logging_steps' lives at 'logging.logging_steps'.",
    ):
        assert sentence in error.value.problems
