"""From the parts of a training to a ``Run``: what the recipe's door and Python's door have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import nn

from callbacks.default_flow import DefaultFlowCallback
from conf import logging
from conf.errors import ConfigError
from trainer.arguments import flat, in_flat_names
from trainer.averaging.averaging import Averaging
from trainer.checkpoint import Checkpointer, CheckpointOptions
from trainer.config import RunConfig, public
from trainer.device_cache import EmptyCacheCallback
from trainer.hub import HubPublisher, publisher_of
from trainer.interrupt import Interrupt
from trainer.log import MetricsFile
from trainer.model_card import card_of
from trainer.model_files import ModelFiles
from trainer.objectives.objective import Objective
from trainer.optimization_judge import optimization_advice
from trainer.optimizers.per_parameter import PerParameterOptimizer
from trainer.plan import Plan
from trainer.ranks import launch_environment
from trainer.ranks.ranks import Ranks
from trainer.run import Evaluates, MicroBatch, Run, RunOptions, StepStream
from trainer.run_folder import METRICS, RunFolder
from trainer.schedules import Rates
from trainer.seeding import seed_rank
from trainer.state import Callbacks, TrainerCallback, TrainerControl, TrainerState


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What each door makes in its own way; the model is on its device and every option was applied to it."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    rates: Rates
    batches: StepStream
    evaluator: Evaluates
    callbacks: Sequence[TrainerCallback]
    processor: Any
    flops: Callable[[MicroBatch], float]
    files: ModelFiles
    main_input_name: str = "input_ids"
    eval_dataloader: Any = None
    publisher: HubPublisher | None = None
    run_type: type[Run] = Run
    saves_processor: bool = True  # unless the model's files bring it along
    averaging: Averaging | None = None
    announced: bool = False  # whether callbacks were told of the end of the beginning


def make_ranks(config: RunConfig) -> Ranks:
    """The machine that a configuration asks for; ``ConfigError`` for what it cannot do, before it is used."""
    refuse_on_device(config)
    return Ranks(
        use_cpu=config.parallel.use_cpu,
        autocast=config.precision.autocast,
        tf32=config.precision.tf32,
        timeout_seconds=config.parallel.ddp_timeout,
        reduces_at_update=config.training.auto_find_batch_size,
    )


def refuse_on_device(config: RunConfig) -> None:
    """``ConfigError`` for what an option asks for and the device of this process does not have."""
    training, tf32 = config.training, config.precision.tf32
    accelerator = None if config.parallel.use_cpu else torch.accelerator.current_accelerator(True)
    device = "cpu" if accelerator is None else accelerator.type
    problems = []
    if tf32 is not None and device != "cuda":
        problems.append(f"precision.tf32: {tf32} has no effect on a {device} device; leave it out.")
    if config.task == "train" and device == "cpu" and (steps := training.torch_empty_cache_steps):
        problems.append(
            f"training.torch_empty_cache_steps: {steps} has no effect on a CPU, which keeps no cache; leave "
            "it out."
        )
    ranks = launch_environment().world_size
    if config.task == "train" and config.optimizer.updates_in_backward and ranks > 1:
        problems.append(
            f"optimizer: {config.optimizer.name} updates each weight before the other {ranks - 1} of {ranks} "
            "processes are heard; start one process, or choose another."
        )
    if config.task == "train" and training.use_liger_kernel:
        from models.kernels import check_liger

        check_liger(training.liger_kernel_config)
        if config.parallel.use_cpu and torch.accelerator.is_available():
            problems.append("training.use_liger_kernel: it needs the GPU that parallel.use_cpu leaves idle.")
    if problems:
        raise ConfigError(problems)


def make_publisher(config: RunConfig, folder: RunFolder, ranks: Ranks) -> HubPublisher | None:
    """What publishes to the hub; None unless asked, and on all ranks but the main."""
    return publisher_of(config.hub, folder.path) if ranks.is_main else None


def assemble(
    config: RunConfig,
    plan: Plan,
    parts: Parts,
    *,
    folder: RunFolder,
    ranks: Ranks,
    num_threads: int,
    say: Callable[[str], None],
    undo: ExitStack,
) -> Run:
    """Put the parts together; ``undo`` ends what must not outlive the run."""
    for note in _notes(config, folder):
        say(in_flat_names(note) if config.data.given else note)
    state, control = _initial_state(config, plan, ranks), TrainerControl()
    args = callback_arguments(config)
    args.output_dir = str(folder.path)  # where the run is, whatever was typed
    seed_rank(config.training.seed, ranks.rank)
    run = parts.run_type(
        model=ranks.prepare(parts.model),
        objective=parts.objective,
        optimizer=parts.optimizer,
        rates=parts.rates,
        batches=parts.batches,
        ranks=ranks,
        evaluator=parts.evaluator,
        checkpointer=_checkpointer(config, plan, parts, folder, num_threads),
        callbacks=Callbacks(
            [DefaultFlowCallback(), *_option_callbacks(config, ranks), *parts.callbacks],
            args=args,
            state=state,
            control=control,
            plan=plan,
            **_given_to_callbacks(parts),
        ),
        state=state,
        control=control,
        metrics_file=MetricsFile(folder.path / METRICS),
        interrupt=Interrupt(sigterm=config.checkpoint.enable_jit_checkpoint),
        options=_run_options(config, plan, parts, args),
        flops=parts.flops,
        say=say,
        publisher=parts.publisher,
        averaging=parts.averaging,
    )
    _release_after(run, undo)
    if not parts.announced:
        run.callbacks("on_init_end")
    return run


def _release_after(run: Run, undo: ExitStack) -> None:
    """Files, workers and hooks are let go however the run ends."""
    undo.callback(run.callbacks.close)
    undo.callback(run.metrics_file.close)
    undo.callback(run.batches.close)
    if isinstance(run.optimizer, PerParameterOptimizer):
        undo.callback(run.optimizer.release)


def callback_arguments(config: RunConfig) -> Any:
    """The flat view that callbacks get, with what follows from other options filled in."""
    args = flat(config)
    if args.disable_tqdm is None:
        args.disable_tqdm = logging.get_verbosity() > logging.WARNING
    args.metric_for_best_model = args.metric_for_best_model or "loss"
    if args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    return args


def _notes(config: RunConfig, folder: RunFolder) -> Iterator[str]:
    """What is worth saying of the options: sentences, those that a fresh run has no use for among them."""
    yield from optimization_advice(config)
    if folder.checkpoint is not None:
        return
    given = {
        "checkpoint.ignore_data_skip": config.checkpoint.ignore_data_skip,
        "checkpoint.restore_callback_states_from_checkpoint": (
            not config.checkpoint.restore_callback_states_from_checkpoint
        ),
    }
    for path in (path for path, is_given in given.items() if is_given):
        yield f"{path}: it has no effect on a run that starts afresh."


def _given_to_callbacks(parts: Parts) -> dict[str, Any]:
    """What every event gives, under the reference's names."""
    return {
        "model": parts.model,
        "processing_class": parts.processor,
        "optimizer": parts.optimizer,
        "lr_scheduler": parts.rates,
        "train_dataloader": parts.batches,
        "eval_dataloader": parts.eval_dataloader,
    }


def _run_options(config: RunConfig, plan: Plan, parts: Parts, args: Any) -> RunOptions:
    evaluation, checkpoint, logging = config.evaluation, config.checkpoint, config.logging
    saves_best = checkpoint.save_strategy == "best"
    counted = logging.include_num_input_tokens_seen
    return RunOptions(
        max_grad_norm=config.training.max_grad_norm,
        rows_per_step=plan.rows_per_step,
        saves_at_end=checkpoint.save_strategy in ("steps", "epoch"),
        saves_best=saves_best,
        loads_best=checkpoint.load_best_model_at_end,
        evaluate_on_start=evaluation.eval_on_start,
        metric_for_best_model=f"eval_{args.metric_for_best_model.removeprefix('eval_')}",
        greater_is_better=args.greater_is_better,
        needs_best=saves_best
        or checkpoint.load_best_model_at_end
        or evaluation.metric_for_best_model is not None
        or config.schedule.name == "reduce_lr_on_plateau",
        averages_tokens=config.training.average_tokens_across_devices,
        counts_padding=counted in ("all", True),
        logs_tokens=counted not in ("no", False),
        finds_batch_size=config.training.auto_find_batch_size,
        updates_in_backward=config.optimizer.updates_in_backward,
        main_input_name=parts.main_input_name,
    )


def _checkpointer(
    config: RunConfig, plan: Plan, parts: Parts, folder: RunFolder, num_threads: int
) -> Checkpointer:
    checkpoint = config.checkpoint
    return Checkpointer(
        folder.path,
        files=parts.files,
        processor=parts.processor if parts.saves_processor else None,
        config_yaml=yaml.safe_dump(public(config), sort_keys=False, allow_unicode=True),
        options=CheckpointOptions(
            max_shard_size=checkpoint.max_shard_size,
            save_total_limit=checkpoint.save_total_limit,
            save_only_model=checkpoint.save_only_model,
            restores_callbacks=checkpoint.restore_callback_states_from_checkpoint,
            skips_data=not checkpoint.ignore_data_skip,
        ),
        rows_per_step=plan.rows_per_step,
        num_threads=num_threads,
        seed=config.training.seed,
        card=lambda run: card_of(config, run, folder.path),
    )


def _option_callbacks(config: RunConfig, ranks: Ranks) -> list[TrainerCallback]:
    steps = config.training.torch_empty_cache_steps
    return [] if steps is None else [EmptyCacheCallback(steps, ranks.device)]


def _initial_state(config: RunConfig, plan: Plan, ranks: Ranks) -> TrainerState:
    return TrainerState(
        max_steps=plan.max_steps,
        num_train_epochs=int(-(-(plan.num_train_epochs or 0) // 1)),
        logging_steps=plan.log.every or 0,
        eval_steps=plan.evaluate.every or 0,
        save_steps=plan.save.every or 0,
        train_batch_size=config.training.per_device_train_batch_size,
        is_local_process_zero=ranks.launched.local_rank == 0,
        is_world_process_zero=ranks.is_main,
    )
