"""The reference's flat training arguments, and where each one lives in a recipe.

One table for all of them (reference: main_classes/trainer, TrainingArguments and Seq2SeqTrainingArguments).
``runs`` lists the values that this version carries out; any other is refused in one sentence. ``None`` there
means all of them. Defaults are those of ``RunConfig``; ``DIFFERENT_DEFAULTS`` says where and why they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from conf.decode import Chosen
from trainer.config import RunConfig


@dataclass(frozen=True)
class Argument:
    """One argument of the reference: its path in a recipe, the values that run, who brings the others."""

    name: str
    path: str
    meaning: str
    runs: tuple[Any, ...] | None = None
    brought_by: str = "spine"


def _later(name: str, path: str, owner: str, meaning: str, *runs: Any) -> Argument:
    return Argument(name, path, meaning, runs or (None, False), owner)


A = Argument
ARGUMENTS: tuple[Argument, ...] = (
    A("output_dir", "output_dir", "folder of the run"),
    _later("do_train", "task", "options", "whether to train", "train"),
    _later("do_eval", "task", "options", "evaluate only", "train"),
    _later("do_predict", "task", "options", "predict only", "train"),
    A("resume_from_checkpoint", "resume", "a checkpoint to go on from, or `auto`"),
    # training
    A("num_train_epochs", "training.num_train_epochs", "passes over the data; rounded up to steps"),
    A("max_steps", "training.max_steps", "optimizer steps; wins over the epochs"),
    A("per_device_train_batch_size", "training.per_device_train_batch_size", "rows of a micro-batch"),
    A("gradient_accumulation_steps", "training.gradient_accumulation_steps", "micro-batches of one step"),
    A("max_grad_norm", "training.max_grad_norm", "clip the global gradient norm to this; 0 or null does not"),
    A("seed", "training.seed", "seed of weights, dropout and, without data_seed, of the data order"),
    A("data_seed", "training.data_seed", "seed of the data order"),
    A("gradient_checkpointing", "training.gradient_checkpointing", "recompute activations to save memory"),
    _later("gradient_checkpointing_kwargs", "training.gradient_checkpointing_kwargs", "options", "how"),
    _later("full_determinism", "training.full_determinism", "options", "deterministic kernels only"),
    _later("label_smoothing_factor", "training.label_smoothing_factor", "options", "label smoothing", 0.0),
    _later("neftune_noise_alpha", "training.neftune_noise_alpha", "options", "noise on embeddings"),
    _later("average_tokens_across_devices", "training.average_tokens_across_devices", "options",
           "divide by the token count of all ranks", True),
    _later("auto_find_batch_size", "training.auto_find_batch_size", "options", "look for a batch that fits"),
    _later("torch_compile", "training.torch_compile", "options", "compile the model"),
    _later("torch_compile_backend", "training.torch_compile_backend", "options", "backend of the compiler"),
    _later("torch_compile_mode", "training.torch_compile_mode", "options", "mode of the compiler"),
    _later("torch_empty_cache_steps", "training.torch_empty_cache_steps", "options", "empty the cache"),
    _later("use_liger_kernel", "training.use_liger_kernel", "options", "Liger's kernels"),
    _later("liger_kernel_config", "training.liger_kernel_config", "options", "which of them"),
    _later("use_cache", "training.use_cache", "options", "key-value cache while training"),
    # optimizer and schedule
    A("optim", "optimizer.name", "the optimizer"),
    _later("optim_args", "optimizer", "optimizers", "options of the optimizer, as text"),
    _later("optim_target_modules", "optimizer.optim_target_modules", "optimizers", "what GaLore projects"),
    A("learning_rate", "optimizer.learning_rate", "the peak learning rate"),
    A("weight_decay", "optimizer.weight_decay", "decoupled decay of all but norms and biases"),
    A("adam_beta1", "optimizer.adam_beta1", "decay of the first moment"),
    A("adam_beta2", "optimizer.adam_beta2", "decay of the second moment"),
    A("adam_epsilon", "optimizer.adam_epsilon", "added to the denominator"),
    A("lr_scheduler_type", "schedule.name", "the shape of the learning rate"),
    _later("lr_scheduler_kwargs", "schedule", "optimizers", "options of the schedule"),
    A("warmup_steps", "schedule.warmup_steps", "steps of linear warm-up; below 1 a share of all steps"),
    A("warmup_ratio", "schedule.warmup_ratio", "share of all steps used to warm up"),
    # precision
    A("bf16", "precision.bf16", "compute in bfloat16, weights in fp32"),
    _later("fp16", "precision.fp16", "options", "compute in float16 with loss scaling"),
    _later("bf16_full_eval", "precision.bf16_full_eval", "options", "evaluate in bfloat16"),
    _later("fp16_full_eval", "precision.fp16_full_eval", "options", "evaluate in float16"),
    _later("tf32", "precision.tf32", "options", "TF32 matrix products", None),
    # data
    A("dataloader_num_workers", "data.dataloader_num_workers", "processes that make batches; 0 = this one"),
    A("dataloader_prefetch_factor", "data.dataloader_prefetch_factor", "micro-batches made ahead"),
    A("dataloader_drop_last", "data.dataloader_drop_last", "leave out an epoch's short last step"),
    _later("dataloader_pin_memory", "data.dataloader_pin_memory", "options", "page-locked batches", True),
    _later("dataloader_persistent_workers", "data.dataloader_persistent_workers", "options", "keep workers"),
    _later("remove_unused_columns", "data.remove_unused_columns", "options", "drop unknown columns", True),
    _later("label_names", "data.label_names", "options", "columns that are labels"),
    _later("group_by_length", "data.group_by_length", "options", "batches of similar lengths"),
    _later("length_column_name", "data.length_column_name", "options", "column of lengths", "length"),
    _later("sortish_sampler", "data.sortish_sampler", "options", "batches roughly sorted by length"),
    # evaluation
    A("eval_strategy", "evaluation.eval_strategy", "when to evaluate"),
    A("eval_steps", "evaluation.eval_steps", "steps between evaluations; null = logging_steps"),
    A("eval_delay", "evaluation.eval_delay", "epochs or steps before the first evaluation"),
    A("eval_on_start", "evaluation.eval_on_start", "evaluate before the first step"),
    A("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", "rows of an evaluation batch"),
    A("metric_for_best_model", "evaluation.metric_for_best_model", "the metric that decides which is best"),
    A("greater_is_better", "evaluation.greater_is_better", "whether more of it is better"),
    _later("eval_accumulation_steps", "evaluation.eval_accumulation_steps", "options", "spare the device"),
    _later("prediction_loss_only", "evaluation.prediction_loss_only", "options", "return the loss only"),
    _later("include_for_metrics", "evaluation.include_for_metrics", "options", "what metrics see", ()),
    _later("eval_do_concat_batches", "evaluation.eval_do_concat_batches", "options", "join batches", True),
    _later("batch_eval_metrics", "evaluation.batch_eval_metrics", "options", "metrics batch by batch"),
    _later("eval_use_gather_object", "evaluation.eval_use_gather_object", "options", "gather any object"),
    # checkpoints
    A("save_strategy", "checkpoint.save_strategy", "when to save", ("no", "steps", "epoch"), "options"),
    A("save_steps", "checkpoint.save_steps", "steps between checkpoints"),
    A("save_total_limit", "checkpoint.save_total_limit", "how many are kept; the best and last always"),
    _later("enable_jit_checkpoint", "checkpoint.enable_jit_checkpoint", "options", "save on SIGTERM", True),
    _later("save_on_each_node", "checkpoint.save_on_each_node", "ranks", "one writer a node"),
    _later("save_only_model", "checkpoint.save_only_model", "options", "leave out what resume needs"),
    _later("restore_callback_states_from_checkpoint", "checkpoint.restore_callback_states_from_checkpoint",
           "options", "callbacks go on where they were", True),
    _later("load_best_model_at_end", "checkpoint.load_best_model_at_end", "options", "end with the best"),
    _later("ignore_data_skip", "checkpoint.ignore_data_skip", "options", "resume at the epoch's start"),
    # logging
    A("logging_strategy", "logging.logging_strategy", "when to log"),
    A("logging_steps", "logging.logging_steps", "steps between log lines"),
    A("logging_first_step", "logging.logging_first_step", "log step 1 too"),
    A("disable_tqdm", "logging.disable_tqdm", "no progress line"),
    A("run_name", "logging.run_name", "a name shown beside the run"),
    _later("logging_nan_inf_filter", "logging.logging_nan_inf_filter", "options", "hide NaN from the log"),
    _later("logging_dir", "logging.logging_dir", "optimizers", "folder of TensorBoard's files"),
    _later("log_level", "logging.log_level", "options", "verbosity", "passive"),
    _later("log_level_replica", "logging.log_level_replica", "options", "verbosity of replicas", "warning"),
    _later("log_on_each_node", "logging.log_on_each_node", "options", "every node speaks", True),
    _later("report_to", "logging.report_to", "optimizers", "trackers", "none"),
    _later("project", "logging.project", "optimizers", "project name at a tracker", "stockpot"),
    _later("trackio_space_id", "logging.trackio_space_id", "optimizers", "Space that Trackio publishes to"),
    _later("include_num_input_tokens_seen", "logging.include_num_input_tokens_seen", "options",
           "count tokens (three counters are always logged)", "no", False),
    _later("skip_memory_metrics", "logging.skip_memory_metrics", "options", "no memory report", True),
    _later("debug", "logging.debug", "optimizers", "watch for overflow", "", ()),
    # ranks
    A("use_cpu", "parallel.use_cpu", "stay on the CPU even where there is an accelerator"),
    _later("local_rank", "parallel.local_rank", "ranks", "deprecated: the launcher says it", -1),
    _later("ddp_backend", "parallel.ddp_backend", "ranks", "backend of the process group"),
    _later("ddp_find_unused_parameters", "parallel.ddp_find_unused_parameters", "ranks", "tolerate them"),
    _later("ddp_bucket_cap_mb", "parallel.ddp_bucket_cap_mb", "ranks", "bucket size of the reduction"),
    _later("ddp_broadcast_buffers", "parallel.ddp_broadcast_buffers", "ranks", "share buffers each forward",
           None),
    _later("ddp_timeout", "parallel.ddp_timeout", "ranks", "seconds before a collective gives up", 1800),
    _later("fsdp", "parallel.fsdp", "ranks", "shard the parameters"),
    _later("fsdp_config", "parallel.fsdp_config", "ranks", "how"),
    _later("deepspeed", "parallel.deepspeed", "ranks", "DeepSpeed's configuration"),
    _later("accelerator_config", "parallel.accelerator_config", "ranks", "accelerate's options"),
    _later("parallelism_config", "parallel.parallelism_config", "ranks", "sizes of the device mesh"),
    # hub
    _later("push_to_hub", "hub.push_to_hub", "options", "publish the model"),
    _later("hub_model_id", "hub.hub_model_id", "options", "repository to publish to"),
    _later("hub_strategy", "hub.hub_strategy", "options", "what is published when", "every_save"),
    _later("hub_token", "hub.hub_token", "options", "token to publish with"),
    _later("hub_private_repo", "hub.hub_private_repo", "options", "make it private"),
    _later("hub_always_push", "hub.hub_always_push", "options", "push even while pushing"),
    _later("hub_revision", "hub.hub_revision", "options", "branch to publish to"),
    # sequence to sequence
    _later("predict_with_generate", "generation.predict_with_generate", "options", "generate to evaluate"),
    _later("generation_max_length", "generation.generation_max_length", "options", "its longest output"),
    _later("generation_num_beams", "generation.generation_num_beams", "options", "its beams"),
    _later("generation_config", "generation.generation_config", "options", "a file with its options"),
)  # fmt: skip

HOMES: Mapping[str, str] = {argument.name: argument.path for argument in ARGUMENTS}

DIFFERENT_DEFAULTS: Mapping[str, str] = {
    "logging_nan_inf_filter": "a NaN is never smoothed over",
    "restore_callback_states_from_checkpoint": "a resumed run is the same run",
    "enable_jit_checkpoint": "SIGTERM always saves",
    "trackio_space_id": "nothing is published unless asked",
    "project": "named after this framework",
}


def refused(config: RunConfig) -> Iterator[str]:
    """A sentence for every option whose value this version does not carry out."""
    for argument in ARGUMENTS:
        value = read(config, argument.path)
        if argument.runs is not None and not isinstance(value, Chosen) and value not in argument.runs:
            only = " or ".join(repr(item) for item in dict.fromkeys(argument.runs) if item is not None)
            instead = f" or at {only}" if only else ""
            yield f"{argument.path}: {value!r} is not supported yet; leave it out{instead}."


def read(config: Any, path: str) -> Any:
    """The value at a dotted path of a decoded configuration; ``None`` where there is no such field."""
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return config


def flat(config: RunConfig) -> SimpleNamespace:
    """The reference's flat view of a configuration, as callbacks written for it expect their ``args``."""
    values = {argument.name: read(config, argument.path) for argument in ARGUMENTS}
    evaluates = config.evaluation.eval_strategy != "no"
    values |= {"do_train": True, "do_eval": evaluates, "do_predict": False}  # together they are `task`
    values |= {"optim_args": None, "lr_scheduler_kwargs": None}  # these are the options of a section
    return SimpleNamespace(**values)
