"""The reference's flat training arguments, and where each one lives in a recipe.

One table for all of them (reference: main_classes/trainer, TrainingArguments and Seq2SeqTrainingArguments).
``trainer/ARGUMENTS.md`` is printed from it by ``scripts/document_arguments.py``. Defaults are those of
``RunConfig``; ``DIFFERENT_DEFAULTS`` says where and why they are not the reference's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.options import CheckpointingOptions
from trainer.argument_values import (
    AcceleratorShape,
    Decoder,
    FSDPShape,
    ParallelismShape,
    checkpoint_to_resume,
    folder,
    mapping,
    optimizer_text,
    or_none_word,
    or_zero,
    plain,
    shaped,
    sharding,
    spaced,
    token_counting,
)


@dataclass(frozen=True)
class Argument:
    """One argument of the reference, and its path in a recipe.

    ``meaning`` is what it says; ``runs`` are the values that this version carries out (None: all of them),
    and ``brought_by`` names what brings the others. ``decode`` makes a recipe's value of the flat one;
    ``never`` are words, or keys of a mapping, that cannot matter here, each with the rest of the sentence
    that refuses it.
    """

    name: str
    path: str
    meaning: str
    runs: tuple[Any, ...] | None = None
    brought_by: str = ""
    decode: Decoder = plain
    never: Mapping[str, str] = field(default_factory=dict)


SHARDING = "distributed training"
_TPU = "is for TPUs, which nothing here runs on; leave it out."
_NPU = "is for NPUs, which nothing here runs on; leave it out."
_MLU = "is for MLUs, which nothing here runs on; leave it out."
_NAN = "would hide that a loss is not finite, which is never done; leave it out."
_APEX = "needs apex, and torch has its own; use 'adamw_torch_fused'."


def _later(name: str, path: str, owner: str, meaning: str, *runs: Any, **more: Any) -> Argument:
    return Argument(name, path, meaning, runs or (None, False), owner, **more)


A = Argument
ARGUMENTS: tuple[Argument, ...] = (
    A("output_dir", "output_dir", "folder of the run", decode=folder),
    A("do_train", "task", "train (what a recipe does by itself)"),
    A("do_eval", "task", "evaluate; without training the task is `evaluate`"),
    A("do_predict", "task", "predict; without training the task is `predict`"),
    A("resume_from_checkpoint", "resume", "checkpoint to go on from; `auto` (in Python True) is the newest "
      "of output_dir", decode=checkpoint_to_resume),
    # training
    A("num_train_epochs", "training.num_train_epochs", "passes over the data, not necessarily whole; "
      "rounded up to optimizer steps"),
    A("max_steps", "training.max_steps", "optimizer steps to make, however many epochs they take; -1 goes "
      "by the epochs"),
    A("per_device_train_batch_size", "training.per_device_train_batch_size", "rows of a micro-batch on each "
      "process"),
    A("gradient_accumulation_steps", "training.gradient_accumulation_steps", "micro-batches of one "
      "optimizer step"),
    A("max_grad_norm", "training.max_grad_norm", "norm that the gradient of all parameters and ranks is "
      "clipped to; 0 or null clips nothing"),
    A("seed", "training.seed", "seed of weights, dropout and, without data_seed, of the data order"),
    A("data_seed", "training.data_seed", "seed of the data order"),
    A("gradient_checkpointing", "training.gradient_checkpointing", "recompute activations in the backward "
      "pass, to save memory"),
    A("gradient_checkpointing_kwargs", "training.gradient_checkpointing_kwargs", "options of "
      "torch.utils.checkpoint: use_reentrant, preserve_rng_state, determinism_check, debug, early_stop",
      decode=shaped(CheckpointingOptions)),
    A("full_determinism", "training.full_determinism", "only kernels that give the same bits each time; "
      "slower"),
    A("label_smoothing_factor", "training.label_smoothing_factor", "share of the target that is spread "
      "over all classes"),
    A("neftune_noise_alpha", "training.neftune_noise_alpha", "size of the noise on the embeddings while "
      "training (NEFTune); null adds none"),
    A("average_tokens_across_devices", "training.average_tokens_across_devices", "divide the loss by the "
      "token count of all ranks, not each rank by its own"),
    A("auto_find_batch_size", "training.auto_find_batch_size", "on lack of memory take smaller "
      "micro-batches and more of them; the rows of a step stay"),
    A("torch_compile", "training.torch_compile", "compile the model by torch.compile"),
    A("torch_compile_backend", "training.torch_compile_backend", "backend of the compiler; turns "
      "torch_compile on"),
    A("torch_compile_mode", "training.torch_compile_mode", "mode of the compiler; turns torch_compile on"),
    A("torch_empty_cache_steps", "training.torch_empty_cache_steps", "steps between emptyings of the "
      "device's memory cache; null never does"),
    A("use_liger_kernel", "training.use_liger_kernel", "replace layers by Liger's kernels"),
    A("liger_kernel_config", "training.liger_kernel_config", "which of Liger's kernels: rope, rms_norm, "
      "swiglu, cross_entropy, fused_linear_cross_entropy", decode=mapping),
    A("use_cache", "training.use_cache", "keep a key-value cache while training; never written to the "
      "saved model"),
    # optimizer and schedule
    A("optim", "optimizer.name", "the optimizer",
      never={"adamw_torch_xla": _TPU, "adamw_torch_npu_fused": _NPU, "adamw_apex_fused": _APEX}),
    A("optim_args", "optimizer", "further options of the optimizer, as `key=value,key=value`; in a recipe "
      "they are keys of `optimizer`", decode=optimizer_text),
    A("optim_target_modules", "optimizer.optim_target_modules", "linear layers that GaLore, APOLLO or Muon "
      "treats: names, a regular expression, or `all-linear`"),
    A("learning_rate", "optimizer.learning_rate", "the peak of the learning rate"),
    A("weight_decay", "optimizer.weight_decay", "decoupled decay of all weights but norms and biases"),
    A("adam_beta1", "optimizer.adam_beta1", "decay of the first moment"),
    A("adam_beta2", "optimizer.adam_beta2", "decay of the second moment"),
    A("adam_epsilon", "optimizer.adam_epsilon", "added to the denominator of Adam"),
    A("lr_scheduler_type", "schedule.name", "shape of the learning rate over the steps"),
    A("lr_scheduler_kwargs", "schedule", "further options of the schedule; in a recipe they are keys of "
      "`schedule`", decode=mapping),
    A("warmup_steps", "schedule.warmup_steps", "steps of linear warm-up; below 1 a share of all steps"),
    A("warmup_ratio", "schedule.warmup_ratio", "share of all steps used to warm up (the older spelling)"),
    # precision
    A("bf16", "precision.bf16", "compute in bfloat16, keep weights in fp32"),
    A("fp16", "precision.fp16", "compute in float16 with loss scaling, keep weights in fp32"),
    A("bf16_full_eval", "precision.bf16_full_eval", "cast the model to bfloat16 for an evaluation or "
      "prediction of its own"),
    A("fp16_full_eval", "precision.fp16_full_eval", "cast the model to float16 for an evaluation or "
      "prediction of its own"),
    A("tf32", "precision.tf32", "TF32 matrix products; null leaves torch's setting"),
    # data
    A("dataloader_num_workers", "data.dataloader_num_workers", "processes that make batches; 0 makes them "
      "in the training process"),
    A("dataloader_prefetch_factor", "data.dataloader_prefetch_factor", "micro-batches that each worker "
      "makes ahead"),
    A("dataloader_drop_last", "data.dataloader_drop_last", "leave out the short last step of an epoch"),
    A("dataloader_pin_memory", "data.dataloader_pin_memory", "batches in page-locked memory, where there "
      "is an accelerator"),
    A("dataloader_persistent_workers", "data.dataloader_persistent_workers", "keep the workers from epoch "
      "to epoch"),
    A("remove_unused_columns", "data.remove_unused_columns", "drop columns that the model's forward does "
      "not take"),
    A("label_names", "data.label_names", "columns that are labels; null finds them by the model's forward"),
    A("group_by_length", "data.group_by_length", "micro-batches of rows of similar length"),
    A("length_column_name", "data.length_column_name", "column that holds the lengths"),
    A("sortish_sampler", "data.sortish_sampler", "the same as group_by_length, in sequence to sequence "
      "programs"),
    # evaluation
    A("eval_strategy", "evaluation.eval_strategy", "when to evaluate: no, steps, epoch"),
    A("eval_steps", "evaluation.eval_steps", "steps between evaluations, below 1 a share of all; null is "
      "logging_steps"),
    A("eval_delay", "evaluation.eval_delay", "epochs or steps, by eval_strategy, before the first "
      "evaluation", decode=or_zero),
    A("eval_on_start", "evaluation.eval_on_start", "evaluate before the first step"),
    A("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", "rows of an evaluation batch "
      "on each process"),
    A("metric_for_best_model", "evaluation.metric_for_best_model", "the metric by which a checkpoint is the "
      "best, with or without eval_; null is the loss"),
    A("greater_is_better", "evaluation.greater_is_better", "whether more of that metric is better; null "
      "says so unless its name ends in loss"),
    A("eval_accumulation_steps", "evaluation.eval_accumulation_steps", "evaluation batches after which "
      "predictions leave the device; null moves them at the end"),
    A("prediction_loss_only", "evaluation.prediction_loss_only", "evaluate the loss and nothing else"),
    A("include_for_metrics", "evaluation.include_for_metrics", "what compute_metrics gets beside "
      "predictions and labels: inputs, loss"),
    A("eval_do_concat_batches", "evaluation.eval_do_concat_batches", "join the predictions of all batches; "
      "without, compute_metrics gets a list of batches"),
    A("batch_eval_metrics", "evaluation.batch_eval_metrics", "call compute_metrics on each batch, and keep "
      "no predictions"),
    A("eval_use_gather_object", "evaluation.eval_use_gather_object", "gather predictions that are no "
      "tensors over the ranks too"),
    # checkpoints
    A("save_strategy", "checkpoint.save_strategy", "when to save: no, steps, epoch, best"),
    A("save_steps", "checkpoint.save_steps", "steps between checkpoints, below 1 a share of all"),
    A("save_total_limit", "checkpoint.save_total_limit", "how many checkpoints are kept; the best and the "
      "last valid one always are"),
    A("enable_jit_checkpoint", "checkpoint.enable_jit_checkpoint", "save before ending on SIGTERM"),
    _later("save_on_each_node", "checkpoint.save_on_each_node", SHARDING, "each node writes to a disk of "
           "its own"),
    A("save_only_model", "checkpoint.save_only_model", "save no optimizer, schedule and data position; "
      "such a checkpoint cannot be resumed"),
    A("restore_callback_states_from_checkpoint", "checkpoint.restore_callback_states_from_checkpoint", ""
      "let callbacks go on where they were when resuming"),
    A("load_best_model_at_end", "checkpoint.load_best_model_at_end", "end with the weights of the best "
      "checkpoint, not the last; each new best evaluation is saved for it"),
    A("ignore_data_skip", "checkpoint.ignore_data_skip", "resume with the data of the epoch's start"),
    # logging
    A("logging_strategy", "logging.logging_strategy", "when to log: no, steps, epoch"),
    A("logging_steps", "logging.logging_steps", "steps between log lines, below 1 a share of all"),
    A("logging_first_step", "logging.logging_first_step", "log the first step too"),
    A("disable_tqdm", "logging.disable_tqdm", "show no progress; null goes by the log level"),
    A("run_name", "logging.run_name", "a name of the run, shown and kept in its plan"),
    A("logging_nan_inf_filter", "logging.logging_nan_inf_filter", "hide a loss that is not finite from the "
      "log", never={"True": _NAN}),
    A("logging_dir", "logging.logging_dir", "folder of TensorBoard's files (deprecated)"),
    A("log_level", "logging.log_level", "how much the main process says: debug, info, warning, error, "
      "critical; passive changes nothing"),
    A("log_level_replica", "logging.log_level_replica", "how much the other processes say"),
    A("log_on_each_node", "logging.log_on_each_node", "on several machines, one process of each speaks as "
      "the main one"),
    A("report_to", "logging.report_to", "experiment trackers: none, all, or their names",
      decode=or_none_word),
    A("project", "logging.project", "name of the project at a tracker"),
    A("trackio_space_id", "logging.trackio_space_id", "Space that Trackio publishes to; null stays local"),
    A("include_num_input_tokens_seen", "logging.include_num_input_tokens_seen", "count input tokens: all, "
      "non_padding, no (three counters are in every log line anyway)", decode=token_counting),
    A("skip_memory_metrics", "logging.skip_memory_metrics", "measure no memory"),
    A("debug", "logging.debug", "`underflow_overflow` looks for numbers that are not finite in every layer",
      decode=spaced, never={"tpu_metrics_debug": _TPU}),
    # ranks
    A("use_cpu", "parallel.use_cpu", "stay on the CPU even where there is an accelerator"),
    _later("local_rank", "parallel.local_rank", SHARDING, "rank on this machine (deprecated: the launcher "
           "says it)", -1),
    _later("ddp_backend", "parallel.ddp_backend", SHARDING, "backend of the process group: nccl, gloo, mpi",
           never={"hccl": _NPU, "cncl": _MLU}),
    _later("ddp_find_unused_parameters", "parallel.ddp_find_unused_parameters", SHARDING, "let DDP look for "
           "parameters without a gradient"),
    _later("ddp_bucket_cap_mb", "parallel.ddp_bucket_cap_mb", SHARDING, "megabytes of gradients that DDP "
           "reduces at once"),
    _later("ddp_broadcast_buffers", "parallel.ddp_broadcast_buffers", SHARDING, "DDP copies buffers from "
           "rank 0 in each forward pass", None),
    _later("ddp_timeout", "parallel.ddp_timeout", SHARDING, "seconds after which a collective operation "
           "gives up", 1800),
    _later("fsdp", "parallel.fsdp", SHARDING, "what is sharded: full_shard, shard_grad_op, no_shard, "
           "hybrid_shard, hybrid_shard_zero2, offload, auto_wrap", decode=sharding),
    _later("fsdp_config", "parallel.fsdp_config", SHARDING, "how it is sharded; a mapping or a JSON file",
           decode=shaped(FSDPShape),
           never=dict.fromkeys(("xla", "xla_fsdp_v2", "xla_fsdp_settings", "xla_fsdp_grad_ckpt"), _TPU)),
    _later("deepspeed", "parallel.deepspeed", SHARDING, "DeepSpeed's configuration; a mapping or a JSON "
           "file", decode=mapping),
    _later("accelerator_config", "parallel.accelerator_config", SHARDING, "accelerate's options, a mapping "
           "or a JSON file; even_batches is false here, so that no example is repeated",
           decode=shaped(AcceleratorShape)),
    _later("parallelism_config", "parallel.parallelism_config", SHARDING, "sizes of the device mesh: "
           "dp_replicate_size, dp_shard_size, tp_size, cp_size, sp_size", decode=shaped(ParallelismShape)),
    # hub
    A("push_to_hub", "hub.push_to_hub", "publish the model"),
    A("hub_model_id", "hub.hub_model_id", "repository to publish to; null is named after output_dir"),
    A("hub_strategy", "hub.hub_strategy", "what is published when: end, every_save, checkpoint, "
      "all_checkpoints"),
    A("hub_token", "hub.hub_token", "token to publish with; null is the one of the login"),
    A("hub_private_repo", "hub.hub_private_repo", "make a new repository private"),
    A("hub_always_push", "hub.hub_always_push", "push even while the last push still runs"),
    A("hub_revision", "hub.hub_revision", "branch to publish to"),
    # sequence to sequence
    A("predict_with_generate", "generation.predict_with_generate", "generate, instead of one forward pass, "
      "to evaluate and predict"),
    A("generation_max_length", "generation.generation_max_length", "longest text that is generated then"),
    A("generation_num_beams", "generation.generation_num_beams", "beams that are searched then"),
    A("generation_config", "generation.generation_config", "folder with further options of the generation"),
)  # fmt: skip

HOMES: Mapping[str, str] = {argument.name: argument.path for argument in ARGUMENTS}

DIFFERENT_DEFAULTS: Mapping[str, str] = {
    "logging_nan_inf_filter": "a NaN is never smoothed over",
    "restore_callback_states_from_checkpoint": "a resumed run is the same run",
    "enable_jit_checkpoint": "SIGTERM always saves",
    "trackio_space_id": "nothing is published unless asked",
    "project": "named after this framework",
}

REFERENCE_DEFAULTS: Mapping[str, Any] = {
    "logging_nan_inf_filter": True,
    "restore_callback_states_from_checkpoint": False,
    "enable_jit_checkpoint": False,
    "trackio_space_id": "trackio",
    "project": "huggingface",
}
