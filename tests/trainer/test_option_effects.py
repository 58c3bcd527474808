"""Every argument of the reference changes what happens, or is refused: a table of the tests that show it.

They are in the files beside this one; here is what is refused as it comes later, or can never matter here.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from tests.trainer.small_program import program
from trainer.argument_table import ARGUMENTS, HOMES, SHARDING

HERE = Path(__file__).parent
COMES_LATER = "test_what_later_work_brings_is_refused"
# Argument -> the test that fails if it has no effect.
EFFECTS: dict[str, str] = {
    # the run
    "output_dir": "test_a_run_is_in_its_folder",
    "do_train": "test_the_flags_choose_the_task",
    "do_eval": "test_the_flags_choose_the_task",
    "do_predict": "test_the_flags_choose_the_task",
    "resume_from_checkpoint": "test_a_run_goes_on_from_a_checkpoint",
    # training
    "num_train_epochs": "test_how_many_steps",
    "max_steps": "test_how_many_steps",
    "per_device_train_batch_size": "test_how_many_steps",
    "gradient_accumulation_steps": "test_how_many_steps",
    "max_grad_norm": "test_gradients_are_clipped_to_a_norm",
    "seed": "test_the_seed_draws_weights_and_order",
    "data_seed": "test_the_seed_of_the_data_is_one_of_its_own",
    "gradient_checkpointing": "test_checkpointed_layers_are_computed_twice",
    "gradient_checkpointing_kwargs": "test_options_of_checkpointing_reach_torch",
    "full_determinism": "test_full_determinism_is_on_while_training",
    "label_smoothing_factor": "test_smoothed_labels_are_torchs",
    "neftune_noise_alpha": "test_noise_while_training",
    "average_tokens_across_devices": "test_each_rank_divides_by_its_own_tokens",
    "auto_find_batch_size": "test_smaller_micro_batches_where_memory_runs_out",
    "torch_compile": "test_compilation_is_asked_of_torch",
    "torch_compile_backend": "test_a_backend_compiles_graphs",
    "torch_compile_mode": "test_compilation_is_asked_of_torch",
    "torch_empty_cache_steps": "test_a_devices_cache_is_emptied_every_few_steps",
    "use_liger_kernel": "test_ligers_kernels_replace_layers",
    "liger_kernel_config": "test_ligers_kernels_replace_layers",
    "use_cache": "test_a_models_cache_is_set_while_training",
    # optimizer and schedule
    "optim": "test_the_optimizer_and_its_options",
    "optim_args": "test_the_optimizer_and_its_options",
    "optim_target_modules": "test_layers_that_an_optimizer_projects",
    "learning_rate": "test_the_optimizer_and_its_options",
    "weight_decay": "test_the_optimizer_and_its_options",
    "adam_beta1": "test_the_optimizer_and_its_options",
    "adam_beta2": "test_the_optimizer_and_its_options",
    "adam_epsilon": "test_the_optimizer_and_its_options",
    "lr_scheduler_type": "test_the_schedule_and_its_options",
    "lr_scheduler_kwargs": "test_the_schedule_and_its_options",
    "warmup_steps": "test_the_schedule_and_its_options",
    "warmup_ratio": "test_the_schedule_and_its_options",
    # precision
    "bf16": "test_half_precision_is_computed_in",
    "fp16": "test_half_precision_is_computed_in",
    "bf16_full_eval": "test_an_evaluation_of_its_own_is_in_half_precision",
    "fp16_full_eval": "test_an_evaluation_of_its_own_is_in_half_precision",
    "tf32": "test_what_a_cpu_cannot_do_is_refused",
    # data
    "dataloader_num_workers": "test_workers_make_the_batches",
    "dataloader_prefetch_factor": "test_how_far_workers_are_ahead",
    "dataloader_drop_last": "test_a_short_last_step_is_left_out",
    "dataloader_pin_memory": "test_memory_is_pinned_for_accelerators",
    "dataloader_persistent_workers": "test_workers_live_on",
    "remove_unused_columns": "test_columns_that_the_model_does_not_take",
    "label_names": "test_columns_that_are_labels",
    "group_by_length": "test_rows_of_similar_length_go_together",
    "length_column_name": "test_rows_of_similar_length_go_together",
    "sortish_sampler": "test_rows_of_similar_length_go_together",
    # evaluation
    "eval_strategy": "test_when_it_is_evaluated",
    "eval_steps": "test_when_it_is_evaluated",
    "eval_delay": "test_when_it_is_evaluated",
    "eval_on_start": "test_when_it_is_evaluated",
    "per_device_eval_batch_size": "test_rows_of_an_evaluation_batch",
    "metric_for_best_model": "test_which_evaluation_is_the_best",
    "greater_is_better": "test_which_evaluation_is_the_best",
    "eval_accumulation_steps": "test_predictions_leave_the_device_every_few_batches",
    "prediction_loss_only": "test_only_the_loss_is_predicted",
    "include_for_metrics": "test_what_compute_metrics_is_given",
    "eval_do_concat_batches": "test_what_compute_metrics_is_given",
    "batch_eval_metrics": "test_metrics_batch_by_batch",
    "eval_use_gather_object": "test_predictions_that_are_no_tensors",
    # checkpoints
    "save_strategy": "test_when_it_is_saved",
    "save_steps": "test_when_it_is_saved",
    "save_total_limit": "test_when_it_is_saved",
    "enable_jit_checkpoint": "test_a_signal_ends_at_once_unless_it_is_to_save",
    "save_on_each_node": COMES_LATER,
    "save_only_model": "test_a_checkpoint_of_the_model_only",
    "restore_callback_states_from_checkpoint": "test_callbacks_start_afresh",
    "load_best_model_at_end": "test_it_ends_with_the_best_model",
    "ignore_data_skip": "test_data_is_not_skipped",
    # logging
    "logging_strategy": "test_when_it_logs",
    "logging_steps": "test_when_it_logs",
    "logging_first_step": "test_when_it_logs",
    "disable_tqdm": "test_progress_is_silent",
    "run_name": "test_a_run_has_a_name",
    "logging_nan_inf_filter": "test_what_can_never_matter_here_is_refused",
    "logging_dir": "test_trackers_are_reported_to",
    "log_level": "test_how_much_is_said",
    "log_level_replica": "test_how_much_other_processes_say",
    "log_on_each_node": "test_how_much_other_processes_say",
    "report_to": "test_trackers_are_reported_to",
    "project": "test_a_project_at_a_tracker",
    "trackio_space_id": "test_a_project_at_a_tracker",
    "include_num_input_tokens_seen": "test_tokens_are_counted",
    "skip_memory_metrics": "test_memory_is_measured",
    "debug": "test_numbers_that_are_not_finite_are_looked_for",
    # ranks
    "use_cpu": "test_the_cpu_is_used_beside_an_accelerator",
    "local_rank": COMES_LATER,
    "ddp_backend": COMES_LATER,
    "ddp_find_unused_parameters": COMES_LATER,
    "ddp_bucket_cap_mb": COMES_LATER,
    "ddp_broadcast_buffers": COMES_LATER,
    "ddp_timeout": COMES_LATER,
    "fsdp": COMES_LATER,
    "fsdp_config": COMES_LATER,
    "deepspeed": COMES_LATER,
    "accelerator_config": COMES_LATER,
    "parallelism_config": COMES_LATER,
    # hub
    "push_to_hub": "test_a_model_is_published",
    "hub_model_id": "test_where_a_model_is_published",
    "hub_strategy": "test_what_is_published",
    "hub_token": "test_where_a_model_is_published",
    "hub_private_repo": "test_where_a_model_is_published",
    "hub_always_push": "test_pushing_while_the_last_push_runs",
    "hub_revision": "test_where_a_model_is_published",
    # sequence to sequence
    "predict_with_generate": "test_predictions_are_generated",
    "generation_max_length": "test_options_of_the_generation",
    "generation_num_beams": "test_options_of_the_generation",
    "generation_config": "test_options_of_the_generation",
}


def sources_of_tests(file: Path) -> dict[str, str]:
    """The tests of a file, with their sources."""
    text = file.read_text(encoding="utf-8")
    return {
        node.name: "\n".join(ast.unparse(part) for part in (*node.decorator_list, node))
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_argument_has_a_test_that_speaks_of_it() -> None:
    assert EFFECTS.keys() == HOMES.keys()
    tests: dict[str, str] = {}
    for file in sorted(HERE.glob("test_option_effects*.py")):
        tests |= sources_of_tests(file)
    assert sorted(set(EFFECTS.values()) - tests.keys()) == []
    spoken = {name: tests[test] for name, test in EFFECTS.items() if test != COMES_LATER}
    silent = [name for name, text in spoken.items() if not re.search(rf"\b{name}\b", text)]
    assert silent == []


def test_the_table_says_who_brings_the_others() -> None:
    owned = {argument.name for argument in ARGUMENTS if argument.brought_by}
    assert owned == {name for name, test in EFFECTS.items() if test == COMES_LATER}


LATER: dict[str, tuple[Any, str]] = {
    "save_on_each_node": (True, SHARDING),
    "local_rank": (0, SHARDING),
    "ddp_backend": ("gloo", SHARDING),
    "ddp_find_unused_parameters": (True, SHARDING),
    "ddp_bucket_cap_mb": (10, SHARDING),
    "ddp_broadcast_buffers": (True, SHARDING),
    "ddp_timeout": (60, SHARDING),
    "fsdp": ("full_shard", SHARDING),
    "fsdp_config": ({"min_num_params": 10}, SHARDING),
    "deepspeed": ({"zero_optimization": {"stage": 2}}, SHARDING),
    "accelerator_config": ({"split_batches": True}, SHARDING),
    "parallelism_config": ({"tp_size": 2}, SHARDING),
}


@pytest.mark.parametrize("name", [name for name, test in EFFECTS.items() if test == COMES_LATER])
def test_what_later_work_brings_is_refused(name: str, tmp_path: Path) -> None:
    value, owner = LATER[name]
    with pytest.raises(ConfigError) as error:
        program(tmp_path, **{name: value})
    (sentence,) = error.value.problems
    shown = f"{name}: {value!r} is not supported yet, it comes with {owner}; leave it out"
    assert sentence.startswith(shown)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_no_optimizer_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        program(tmp_path, optim_target_modules=["q_proj"])
    assert str(error.value) == (
        "optim_target_modules: optim 'adamw_torch_fused' has no such option; leave it out."
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"logging_nan_inf_filter": True},
            "logging_nan_inf_filter: True would hide that a loss is not finite, which is never done; leave "
            "it out.",
        ),
        (
            {"optim": "adamw_torch_xla"},
            "optim: 'adamw_torch_xla' is for TPUs, which nothing here runs on; leave it out.",
        ),
        (
            {"optim": "adamw_torch_npu_fused"},
            "optim: 'adamw_torch_npu_fused' is for NPUs, which nothing here runs on; leave it out.",
        ),
        (
            {"optim": "adamw_apex_fused"},
            "optim: 'adamw_apex_fused' needs apex, and torch has its own; use 'adamw_torch_fused'.",
        ),
        (
            {"debug": "tpu_metrics_debug"},
            "debug: 'tpu_metrics_debug' is for TPUs, which nothing here runs on; leave it out.",
        ),
        (
            {"ddp_backend": "cncl"},
            "ddp_backend: 'cncl' is for MLUs, which nothing here runs on; leave it out.",
        ),
        (
            {"fsdp_config": {"xla": True}},
            "fsdp_config: 'xla' is for TPUs, which nothing here runs on; leave it out.",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_can_never_matter_here_is_refused(given: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        program(tmp_path, **given)
    assert str(error.value) == sentence
