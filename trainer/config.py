"""What a run was asked to do: ``RunConfig``, frozen, nested by owner, and free of torch.

Leaf names are the reference's wherever it has one (main_classes/trainer, TrainingArguments), and so are the
defaults, but for the deliberate exceptions that ``trainer.arguments`` lists. Defaults live here; a file of
``conf/`` says only what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from callbacks.trackers import TRACKERS
from conf.decode import Chosen, OneOf, encode
from conf.plugins import nearest, options_of
from processors.options import TokenizerKind, TrainOptions
from trainer.data.sources import SourceOptions
from trainer.sweeps.options import SweepSection

Interval = Literal["no", "steps", "epoch"]
LogLevel = Literal["debug", "info", "warning", "error", "critical", "passive"]
DEBUGGING = ("underflow_overflow", "tpu_metrics_debug")  # the latter is refused with a sentence of its own
SECRET = ("hub", "hub_token")  # where a configuration may hold what nobody else should read


def _at_least(section: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        if getattr(section, name) < bound:
            raise ValueError(f"{name}: at least {bound} is wanted, {getattr(section, name)} was given.")


def _interval(section: object, name: str) -> None:
    """Steps are whole from 1 on, a share of all steps below 1."""
    value = getattr(section, name)
    if value is not None and (value <= 0 or (value >= 1 and value != int(value))):
        raise ValueError(
            f"{name}: whole steps, or a share of all steps below 1, is wanted, {value} was given."
        )


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Where the model comes from: a preset (random weights), or a folder with weights.

    ``experts_implementation``: how a model with experts computes them; None for the best there is.
    """

    name: str = "llama"
    preset: str | None = None
    path: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] = "sdpa"
    experts_implementation: Literal["eager", "batched_mm", "grouped_mm"] | None = None
    given: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizerSection(TrainOptions):
    """A tokenizer from a folder (``path``), or trained on the training data (``train``)."""

    path: str | None = None
    train: TokenizerKind | None = None  # type: ignore[assignment]  # None: not trained


@dataclass(frozen=True, kw_only=True)
class ProcessorSection:
    """What turns a raw row into model inputs."""

    tokenizer: TokenizerSection = TokenizerSection()
    chat_template: str | None = None
    given: bool = False


@dataclass(frozen=True, kw_only=True)
class SourceSection(SourceOptions):
    """One data source; ``format`` is a name of ``processors.FORMATS``, or a mapping with it and options."""

    format: Annotated[Chosen, OneOf(catalog="processors:FORMATS")]  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Sources, and how their rows become batches."""

    train: dict[str, SourceSection] = field(default_factory=dict)
    validation: dict[str, SourceSection] = field(default_factory=dict)
    test: dict[str, SourceSection] = field(default_factory=dict)
    max_length: int = 1024
    packing: bool = False
    streaming: bool = False
    shuffle: bool = True
    shuffle_block: int = 1024
    max_truncated: float = 0.01
    check_rows: int = 256
    cache_dir: str | None = None
    dataloader_num_workers: int = 0
    dataloader_prefetch_factor: int | None = None
    dataloader_drop_last: bool = False
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    remove_unused_columns: bool = True
    label_names: tuple[str, ...] | None = None
    group_by_length: bool = False
    length_column_name: str = "length"
    sortish_sampler: bool = False
    given: bool = False

    def __post_init__(self) -> None:
        _at_least(self, max_length=2, dataloader_num_workers=0, shuffle_block=1, check_rows=0)
        if self.dataloader_prefetch_factor is not None:
            _at_least(self, dataloader_prefetch_factor=1)
        if not 0 <= self.max_truncated <= 1:
            raise ValueError(
                f"max_truncated: a share between 0 and 1 is wanted, {self.max_truncated} was given."
            )

    @property
    def groups_by_length(self) -> bool:
        """Whether micro-batches are of similar lengths; Seq2Seq's sampler is the same thing."""
        return self.group_by_length or self.sortish_sampler


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """How long, how much at a time, from which seeds, and which parameters (patterns of checkpoint names)."""

    num_train_epochs: float = 3.0
    max_steps: int = -1
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = 1.0
    seed: int = 42
    data_seed: int | None = None
    num_threads: int | None = None
    full_determinism: bool = False
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    label_smoothing_factor: float = 0.0
    neftune_noise_alpha: float | None = None
    average_tokens_across_devices: bool = True
    auto_find_batch_size: bool = False
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    torch_empty_cache_steps: int | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, bool] | None = None
    use_cache: bool = False
    frozen_parameters: tuple[str, ...] = ()
    unfrozen_parameters: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _at_least(self, per_device_train_batch_size=1, gradient_accumulation_steps=1)
        if self.max_grad_norm is not None:
            _at_least(self, max_grad_norm=0)
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(
                f"max_steps: a count of steps, or -1 for none, is wanted, {self.max_steps} was given."
            )
        if self.max_steps == -1 and self.num_train_epochs <= 0:
            raise ValueError(f"num_train_epochs: more than 0 is wanted, {self.num_train_epochs} was given.")
        if self.num_threads is not None:
            _at_least(self, num_threads=1)
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(
                f"label_smoothing_factor: from 0 to below 1 is wanted, {self.label_smoothing_factor} was "
                "given."
            )
        if self.neftune_noise_alpha is not None and self.neftune_noise_alpha <= 0:
            raise ValueError(
                f"neftune_noise_alpha: more than 0 is wanted, {self.neftune_noise_alpha} was given; leave it "
                "out for no noise."
            )
        if self.torch_empty_cache_steps is not None:
            _at_least(self, torch_empty_cache_steps=1)

    @property
    def order_seed(self) -> int:
        """What the order of the data is drawn from."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def compiles(self) -> bool:
        """Whether the model is compiled; a backend or a mode alone asks for it too."""
        return self.torch_compile or bool(self.torch_compile_backend or self.torch_compile_mode)


@dataclass(frozen=True, kw_only=True)
class PrecisionSection:
    """The number formats of the computation; everything is fp32 unless asked for."""

    bf16: bool = False
    fp16: bool = False
    bf16_full_eval: bool = False
    fp16_full_eval: bool = False
    tf32: bool | None = None

    def __post_init__(self) -> None:
        if self.bf16 and self.fp16:
            raise ValueError("fp16: given together with bf16, and only one of them can hold; leave one out.")
        if self.bf16_full_eval and self.fp16_full_eval:
            raise ValueError("fp16_full_eval: given together with bf16_full_eval; leave one of them out.")

    @property
    def autocast(self) -> str | None:
        """The type to compute in, by its short name; None for fp32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else None

    @property
    def full_eval(self) -> str | None:
        """The type that a model is cast to where it is only evaluated; None for its own."""
        return "bfloat16" if self.bf16_full_eval else "float16" if self.fp16_full_eval else None


@dataclass(frozen=True, kw_only=True)
class ParallelSection:
    """How the processes share the work."""

    use_cpu: bool = False
    local_rank: int = -1
    ddp_backend: str | None = None
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: int | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_timeout: int = 1800
    fsdp: str | None = None
    fsdp_config: dict[str, Any] | str | None = None
    deepspeed: dict[str, Any] | str | None = None
    accelerator_config: dict[str, Any] | str | None = None
    parallelism_config: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationSection:
    """When and how the validation data is looked at."""

    eval_strategy: Interval = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    eval_on_start: bool = False
    per_device_eval_batch_size: int = 8
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    eval_accumulation_steps: int | None = None
    prediction_loss_only: bool = False
    include_for_metrics: tuple[Literal["inputs", "loss"], ...] = ()
    eval_do_concat_batches: bool = True
    batch_eval_metrics: bool = False
    eval_use_gather_object: bool = False

    def __post_init__(self) -> None:
        _at_least(self, per_device_eval_batch_size=1, eval_delay=0)
        if self.eval_accumulation_steps is not None:
            _at_least(self, eval_accumulation_steps=1)
        _interval(self, "eval_steps")


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """When a checkpoint is written, and which are kept."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    max_shard_size: int = 5 * 10**9
    save_only_model: bool = False
    load_best_model_at_end: bool = False
    enable_jit_checkpoint: bool = True
    restore_callback_states_from_checkpoint: bool = True
    ignore_data_skip: bool = False
    save_on_each_node: bool = False

    def __post_init__(self) -> None:
        _interval(self, "save_steps")
        if self.save_total_limit is not None:
            _at_least(self, save_total_limit=1)


@dataclass(frozen=True, kw_only=True)
class LoggingSection:
    """What is said, when, and to whom."""

    logging_strategy: Interval = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    logging_nan_inf_filter: bool = False
    run_name: str | None = None
    report_to: str | tuple[str, ...] = "none"
    project: str = "stockpot"
    trackio_space_id: str | None = None
    log_level: LogLevel = "passive"
    log_level_replica: LogLevel = "warning"
    log_on_each_node: bool = True
    logging_dir: str | None = None
    disable_tqdm: bool | None = None
    include_num_input_tokens_seen: Literal["all", "non_padding", "no"] | bool = "no"
    skip_memory_metrics: bool = True
    debug: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        _interval(self, "logging_steps")
        unknown = [name for name in self._names() if name not in (*TRACKERS, "none", "all")]
        if unknown:
            raise ValueError(f"report_to: there is no {unknown[0]!r}; {nearest(unknown[0], TRACKERS)}")
        for word in self.debugging:
            if word not in DEBUGGING:
                raise ValueError(f"debug: there is no {word!r}; {nearest(word, DEBUGGING)}")

    @property
    def trackers(self) -> list[str]:
        """The trackers to report to; ``all`` are those whose package is installed."""
        names = self._names()
        if "all" in names:
            found = ((name, options_of(TRACKERS, name, "report_to").package) for name in TRACKERS)
            return [name for name, package in found if not package.is_missing]
        return [] if "none" in names else names

    @property
    def debugging(self) -> list[str]:
        """What is looked for while training: ``underflow_overflow``, or nothing."""
        return self.debug.split() if isinstance(self.debug, str) else [*self.debug]

    def _names(self) -> list[str]:
        given = self.report_to
        return [given] if isinstance(given, str) else [*given]


@dataclass(frozen=True, kw_only=True)
class HubSection:
    """Publishing to a model hub; never on unless asked."""

    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    hub_always_push: bool = False
    hub_revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSection:
    """Generation during evaluation (sequence to sequence)."""

    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    generation_config: str | None = None

    def __post_init__(self) -> None:
        for name in ("generation_max_length", "generation_num_beams"):
            if getattr(self, name) is not None:
                _at_least(self, **{name: 1})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that one run was asked to do."""

    output_dir: str | None = None
    resume: str | None = None
    check: bool = False
    show: int = 0
    task: Literal["train", "evaluate", "predict"] = "train"
    model: ModelSection = ModelSection()
    processor: ProcessorSection = ProcessorSection()
    data: DataSection = DataSection()
    objective: Annotated[Chosen, OneOf(catalog="trainer.objectives:CATALOG", default="causal_lm")]
    optimizer: Annotated[Chosen, OneOf(catalog="trainer.optimizers:CATALOG", default="adamw_torch_fused")]
    schedule: Annotated[Chosen, OneOf(catalog="trainer.schedules:CATALOG", default="linear")]
    averaging: Annotated[Chosen, OneOf(catalog="trainer.averaging:CATALOG", default="none")]
    training: TrainingSection = TrainingSection()
    precision: PrecisionSection = PrecisionSection()
    parallel: ParallelSection = ParallelSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    logging: LoggingSection = LoggingSection()
    metrics: dict[str, Annotated[Chosen, OneOf(catalog="trainer.metrics:CATALOG")]] = field(
        default_factory=dict
    )
    callbacks: dict[str, Annotated[Chosen, OneOf(catalog="callbacks:CATALOG")]] = field(default_factory=dict)
    hub: HubSection = HubSection()
    generation: GenerationSection = GenerationSection()
    sweep: SweepSection = field(default_factory=SweepSection)


def public(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain data for files and messages, without what is secret."""
    data = encode(config)
    section, name = SECRET
    data[section][name] = None
    return data
