"""The reference's flat training arguments as a value of Python programs (main_classes/trainer).

``trainer.arguments.run_config`` decodes them to the nested configuration that a recipe decodes to, and judges
every value there; ``trainer/ARGUMENTS.md`` says what each one means. Torch is not imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from conf.logging import get_logger, process_log_level
from trainer.argument_setters import (
    ArgumentSetters,
    HubStrategy,
    IntervalStrategy,
    SaveStrategy,
    default_of,
)
from trainer.argument_values import as_data
from trainer.ranks import launch_environment
from trainer.schedules import Warmup, warmup_steps

if TYPE_CHECKING:
    import torch

__all__ = ["HubStrategy", "IntervalStrategy", "SaveStrategy", "Seq2SeqTrainingArguments", "TrainingArguments"]


@dataclass(repr=False)
class TrainingArguments(ArgumentSetters):
    """All that the reference's signature names (version 5.0), with its defaults.

    Those that differ are listed in ``trainer.argument_table.DIFFERENT_DEFAULTS``. It may be changed until a
    trainer is made of it; ``given`` says which arguments were given. An unknown word for a strategy raises
    ``ConfigError`` at once, everything else is judged when it is decoded.
    """

    output_dir: str | None = None
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    eval_strategy: IntervalStrategy | str = "no"
    prediction_loss_only: bool = False
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    eval_accumulation_steps: int | None = None
    eval_delay: float = 0
    torch_empty_cache_steps: int | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    warmup_ratio: float | None = None
    warmup_steps: float = 0
    log_level: str = "passive"
    log_level_replica: str = "warning"
    log_on_each_node: bool = True
    logging_dir: str | None = None
    logging_strategy: IntervalStrategy | str = "steps"
    logging_first_step: bool = False
    logging_steps: float = 500
    logging_nan_inf_filter: bool = False
    save_strategy: SaveStrategy | str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    enable_jit_checkpoint: bool = True
    save_on_each_node: bool = False
    save_only_model: bool = False
    restore_callback_states_from_checkpoint: bool = True
    use_cpu: bool = False
    seed: int = 42
    data_seed: int | None = None
    bf16: bool = False
    fp16: bool = False
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None
    local_rank: int = -1
    ddp_backend: str | None = None
    debug: str | list[str] = ""
    dataloader_drop_last: bool = False
    eval_steps: float | None = None
    dataloader_num_workers: int = 0
    dataloader_prefetch_factor: int | None = None
    run_name: str | None = None
    disable_tqdm: bool | None = None
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    ignore_data_skip: bool = False
    fsdp: list[str] | str | None = None
    fsdp_config: dict[str, Any] | str | None = None
    accelerator_config: dict[str, Any] | str | None = None
    parallelism_config: dict[str, Any] | str | None = None
    deepspeed: dict[str, Any] | str | None = None
    label_smoothing_factor: float = 0.0
    optim: str = "adamw_torch_fused"
    optim_args: str | None = None
    group_by_length: bool = False
    length_column_name: str = "length"
    report_to: list[str] | str | None = "none"
    project: str = "stockpot"
    trackio_space_id: str | None = None
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    skip_memory_metrics: bool = True
    push_to_hub: bool = False
    resume_from_checkpoint: str | None = None
    hub_model_id: str | None = None
    hub_strategy: HubStrategy | str = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    hub_always_push: bool = False
    hub_revision: str | None = None
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | str | None = None
    include_for_metrics: list[str] = field(default_factory=list)
    eval_do_concat_batches: bool = True
    auto_find_batch_size: bool = False
    full_determinism: bool = False
    ddp_timeout: int = 1800
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    include_num_input_tokens_seen: str | bool = "no"
    neftune_noise_alpha: float | None = None
    optim_target_modules: list[str] | str | None = None
    batch_eval_metrics: bool = False
    eval_on_start: bool = False
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, Any] | str | None = None
    eval_use_gather_object: bool = False
    average_tokens_across_devices: bool = True
    use_cache: bool = False

    # -- as data -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Every argument as plain data; of a token only the placeholder of its name."""
        values = {item.name: as_data(getattr(self, item.name)) for item in fields(self) if item.init}
        return {key: f"<{key.upper()}>" if key.endswith("_token") else value for key, value in values.items()}

    def to_json_string(self) -> str:
        """``to_dict`` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """``to_dict`` and the batch sizes, with text for what is no truth value, number or text."""
        sizes = {"train_batch_size": self.train_batch_size, "eval_batch_size": self.eval_batch_size}
        values = {**self.to_dict(), **sizes}
        return {
            key: value if type(value) in (bool, int, float, str) else str(value)
            for key, value in values.items()
        }

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in sorted(self.to_dict().items()))
        return f"{type(self).__name__}({values})"

    # -- numbers -----------------------------------------------------------------------------------

    @property
    def train_batch_size(self) -> int:
        """Rows of a micro-batch of this process, which has one device."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Rows of an evaluation batch of this process."""
        return self.per_device_eval_batch_size

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """How many of so many steps warm up."""
        options = Warmup(warmup_steps=self.warmup_steps, warmup_ratio=self.warmup_ratio)
        return warmup_steps(options, num_training_steps)

    # -- this process among its equals -------------------------------------------------------------

    @property
    def world_size(self) -> int:
        """How many processes train together, as the process group or else the launcher says."""
        group = _group()
        return group.get_world_size() if group else launch_environment().world_size

    @property
    def process_index(self) -> int:
        """Which of all processes this is."""
        group = _group()
        return group.get_rank() if group else launch_environment().rank

    @property
    def local_process_index(self) -> int:
        """Which process of this machine it is."""
        return launch_environment().local_rank

    @property
    def should_log(self) -> bool:
        """Whether this process logs for the others (of its machine, with ``log_on_each_node``)."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    @property
    def should_save(self) -> bool:
        """Whether this process writes to disk (for its machine, with ``save_on_each_node``)."""
        return (self.local_process_index if self.save_on_each_node else self.process_index) == 0

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        import torch

        accelerator = None if self.use_cpu else torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return torch.device("cpu")
        return torch.device(accelerator.type, self.local_process_index % torch.accelerator.device_count())

    @property
    def n_gpu(self) -> int:
        """The accelerators of this process: one, or 0 on the CPU."""
        return int(self.device.type != "cpu")

    def get_process_log_level(self) -> int:
        """``log_level`` as a number, or ``log_level_replica`` where another process logs for this one."""
        return process_log_level(
            self.log_level,
            self.log_level_replica,
            is_main=self.process_index == 0,
            is_local_main=self.local_process_index == 0,
            log_on_each_node=self.log_on_each_node,
        )

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """Let the first process (of each machine, if ``local``) do the body before the others.

        Without a process group there is nobody to wait for. ``desc`` is for the debug log.
        """
        if not _group():
            yield
            return
        from trainer.ranks.first import torch_distributed_zero_first

        get_logger(__name__).debug("process %d waits for its turn or does: %s", self.process_index, desc)
        with torch_distributed_zero_first(self.local_process_index if local else self.process_index):
            yield


@dataclass(repr=False)
class Seq2SeqTrainingArguments(TrainingArguments):
    """``TrainingArguments``, and what a sequence to sequence training adds."""

    sortish_sampler: bool = False
    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: str | None = None


def defaults(cls: type[TrainingArguments] = Seq2SeqTrainingArguments) -> dict[str, Any]:
    """The default of every argument of ``cls``."""
    return {item.name: default_of(item) for item in fields(cls) if item.init}


def _group() -> Any:
    """``torch.distributed`` where a process group exists, else None; torch is not loaded to look."""
    distributed = sys.modules.get("torch.distributed")
    there = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if there else None
