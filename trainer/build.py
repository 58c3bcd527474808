"""From a configuration, prepared data and a plan to a ``Run``; the only module that sees everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from callbacks import CATALOG as CALLBACKS
from callbacks.default_flow import DefaultFlowCallback
from collators import CATALOG as COLLATORS
from conf.decode import encode
from conf.errors import CheckpointError, ConfigError
from conf.plugins import nearest, options_of, thing_of
from models.auto import build_model, torch_dtype
from models.config import ModelConfig
from models.heads.chunked import CHUNK_BYTES, CHUNK_TOKENS
from models.task_model import TaskModel
from models.weights import WeightFiles, checkpoint_names, load_weights
from processors.rendering import stop_ids
from trainer.arguments import flat
from trainer.checkpoint import Checkpointer
from trainer.config import RunConfig
from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.rows import RowSet
from trainer.evaluator import Evaluator
from trainer.interrupt import Interrupt
from trainer.log import MetricsFile
from trainer.objectives import CATALOG as OBJECTIVES
from trainer.objectives.objective import Objective
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.optimizers.torch import parameter_groups
from trainer.plan import Plan, make_plan
from trainer.prepare import Prepared, stream_of
from trainer.ranks.ranks import Ranks
from trainer.run import Run, StepStream
from trainer.run_folder import METRICS, RunFolder
from trainer.schedules import CATALOG as SCHEDULES
from trainer.seeding import seed_rank, seed_weights
from trainer.state import Callbacks, TrainerControl, TrainerState


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What was decided before anything is built."""

    config: RunConfig
    prepared: Prepared
    model_config: ModelConfig
    rows: RowSet | None
    plan: Plan
    num_threads: int


def planned(
    config: RunConfig,
    prepared: Prepared,
    facts: ModelConfig,
    rows: RowSet | None,
    num_threads: int,
    world_size: int,
    plugins: Mapping[str, str],
    notes: Sequence[str],
) -> Materials:
    """The materials of a run with its plan; the model is counted on the meta device.

    Raises ``ConfigError`` for a metric that the objective does not have.
    """
    objective = objective_of(config)
    _refuse_metric(config, objective)
    dtype = torch_dtype(config.model.dtype)
    shapes = build_model(facts, objective.head, device="meta", dtype=dtype)
    trainable = [p for p in shapes.parameters() if p.requires_grad]
    plan = make_plan(
        config,
        rows=rows,
        validation_documents=sum(map(len, prepared.validation.values())),
        world_size=world_size,
        parameters=shapes.num_parameters(),
        trainable=sum(p.numel() for p in trainable),
        weight_bytes=sum(p.nbytes for p in shapes.parameters()),
        activation_bytes=activation_bytes(config, facts),
        processor_bytes=sum(map(len, prepared.tokenizer.files().values())),
        state_tensors=config.optimizer.options.state_tensors,
        plugins=plugins,
        notes=tuple(notes),
    )
    return Materials(
        config=config,
        prepared=prepared,
        model_config=facts,
        rows=rows,
        plan=plan,
        num_threads=num_threads,
    )


def objective_of(config: RunConfig) -> Objective:
    """The training method that a configuration names."""
    thing = thing_of(OBJECTIVES, config.objective.name, "objective.name")
    return thing(config.objective.options)


def _refuse_metric(config: RunConfig, objective: Objective) -> None:
    """Unless ``metric_for_best_model`` is something that an evaluation will give."""
    given = config.evaluation.metric_for_best_model
    sets = config.data.validation if len(config.data.validation) > 1 else ()
    known = [*objective.coefficients, *(f"{name}_{term}" for name in sets for term in objective.coefficients)]
    if given is not None and (metric := given.removeprefix("eval_")) not in known:
        raise ConfigError(
            f"evaluation.metric_for_best_model: there is no {given!r}; {nearest(metric, known)}"
        )


def build_run(materials: Materials, folder: RunFolder, ranks: Ranks) -> Run:
    """Make every part and put them together; a checkpoint to go on from is restored.

    Raises ``CheckpointError`` for weights that do not fit.
    """
    config, plan = materials.config, materials.plan
    objective = objective_of(config)
    model = make_model(materials, objective, folder.checkpoint)
    model.to(ranks.device)
    optimizer = make_optimizer(config, model)
    batches = make_batches(materials, objective, ranks)
    state = _initial_state(materials, ranks)
    control = TrainerControl()
    checkpointer = Checkpointer(
        folder.path,
        save_processor=materials.prepared.tokenizer.save,
        stop_ids=stop_ids(materials.prepared.tokenizer),
        config_yaml=yaml.safe_dump(encode(config), sort_keys=False, allow_unicode=True),
        max_shard_size=config.checkpoint.max_shard_size,
        save_total_limit=config.checkpoint.save_total_limit,
        rows_per_step=plan.rows_per_step,
        num_threads=materials.num_threads,
        seed=config.training.seed,
    )
    schedule = thing_of(SCHEDULES, config.schedule.name, "schedule.name")
    factor = schedule(config.schedule.options, max_steps=plan.max_steps)
    evaluator = Evaluator(objective, ranks, evaluation_sets(materials, objective, ranks))
    args = callback_arguments(config)
    seed_rank(config.training.seed, ranks.rank)
    run = Run(
        model=ranks.prepare(model),
        objective=objective,
        optimizer=optimizer,
        schedule=factor,
        batches=batches,
        ranks=ranks,
        evaluator=evaluator,
        checkpointer=checkpointer,
        callbacks=make_callbacks(
            materials,
            args=args,
            state=state,
            control=control,
            model=model,
            optimizer=optimizer,
            lr_scheduler=factor,
            train_dataloader=batches,
            eval_dataloader=evaluator.sets,
        ),
        state=state,
        control=control,
        metrics_file=MetricsFile(folder.path / METRICS),
        interrupt=Interrupt(),
        max_grad_norm=config.training.max_grad_norm,
        saves_at_end=config.checkpoint.save_strategy != "no",
        evaluate_on_start=config.evaluation.eval_on_start,
        metric_for_best_model=f"eval_{args.metric_for_best_model.removeprefix('eval_')}",
        greater_is_better=args.greater_is_better,
    )
    run.callbacks("on_init_end")
    return run


def make_model(materials: Materials, objective: Objective, checkpoint: Path | None) -> TaskModel:
    """The model with its weights: of the checkpoint, of ``model.path``, or drawn from the seed."""
    section = materials.config.model
    source = checkpoint or (Path(section.path) if section.path else None)
    dtype = torch_dtype(section.dtype)
    build = partial(
        build_model,
        materials.model_config,
        objective.head,
        dtype=dtype,
        attn_implementation=section.attn_implementation,
    )
    if source is None:
        seed_weights(materials.config.training.seed)
        model = build()
    else:
        model = build(device="meta")
        _load(model, source, dtype)
    if materials.config.training.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def _load(model: TaskModel, folder: Path, dtype: torch.dtype | None) -> None:
    report = load_weights(model, WeightFiles(folder), dtype=dtype)
    gaps = [*report.missing, *(mismatch.key for mismatch in report.mismatched)]
    if gaps or report.unexpected:
        what = (
            f"lacks or has in another shape {gaps[:5]}"
            if gaps
            else f"has unknown tensors {report.unexpected[:5]}"
        )
        raise CheckpointError(f"{folder}: {what}; it does not fit its config.json and the objective's head.")


def make_optimizer(config: RunConfig, model: TaskModel) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters; each group remembers its ``initial_lr``."""
    names = checkpoint_names(model)
    groups = parameter_groups(model, names, config.optimizer.weight_decay)
    optimizer = thing_of(OPTIMIZERS, config.optimizer.name, "optimizer.name")(
        config.optimizer.options, groups
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def make_collator(materials: Materials, objective: Objective, *, packing: bool) -> Any:
    """The objective's own collator, with its default options."""
    name = objective.collator(packing=packing)
    options = options_of(COLLATORS, name, "collator")()
    return thing_of(COLLATORS, name, "collator")(options, tokenizer=materials.prepared.tokenizer)


def make_batches(materials: Materials, objective: Objective, ranks: Ranks) -> StepStream:
    """The stream of optimizer steps of this rank."""
    config, training, data = materials.config, materials.config.training, materials.config.data
    collator = make_collator(materials, objective, packing=data.packing)
    if materials.rows is None:
        return stream_of(config, materials.prepared, collator, rank=ranks.rank, world_size=ranks.world_size)
    return Batches(
        materials.rows,
        collator,
        seed=training.seed if training.data_seed is None else training.data_seed,
        per_device_batch_size=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle=data.shuffle,
        drop_last=data.dataloader_drop_last,
        num_workers=data.dataloader_num_workers,
        prefetch_factor=data.dataloader_prefetch_factor or 2,
    )


def evaluation_sets(materials: Materials, objective: Objective, ranks: Ranks) -> dict[str, EvaluationBatches]:
    """This rank's share of each validation source."""
    config = materials.config
    if config.evaluation.eval_strategy == "no" and not config.evaluation.eval_on_start:
        return {}
    packing = config.data.packing
    collator = make_collator(materials, objective, packing=packing)
    return {
        name: EvaluationBatches(
            RowSet([rows], capacity=config.data.max_length if packing else None),
            collator,
            per_device_batch_size=config.evaluation.per_device_eval_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        for name, rows in materials.prepared.validation.items()
    }


def callback_arguments(config: RunConfig) -> SimpleNamespace:
    """The flat view that callbacks get, with the metric for the best model filled in."""
    args = flat(config)
    args.metric_for_best_model = args.metric_for_best_model or "loss"
    if args.greater_is_better is None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    return args


def make_callbacks(materials: Materials, **given: Any) -> Callbacks:
    """The flow of the loop first, then what the recipe names, in its order."""
    chosen = []
    for key, choice in materials.config.callbacks.items():
        thing = thing_of(CALLBACKS, choice.name, f"callbacks.{key}")
        chosen.append(choice.options if thing is type(choice.options) else thing(choice.options))
    return Callbacks(
        [DefaultFlowCallback(), *chosen],
        processing_class=materials.prepared.tokenizer,
        plan=materials.plan,
        **given,
    )


def _initial_state(materials: Materials, ranks: Ranks) -> TrainerState:
    plan, config = materials.plan, materials.config
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


def activation_bytes(config: RunConfig, model_config: Any) -> int:
    """What a micro-batch keeps for its backward pass, in a decoder with a chunked head.

    The numbers of fp32 values a token were fitted to resident sizes of the presets, and hold to about 10 %.
    """
    tokens = config.training.per_device_train_batch_size * config.data.max_length
    hidden, depth = model_config.hidden_size, model_config.num_hidden_layers
    layer = 16 * hidden + 4 * model_config.intermediate_size
    whole_layers = 2 if config.training.gradient_checkpointing else depth
    chunk = min(CHUNK_BYTES, 4 * model_config.vocab_size * min(tokens, CHUNK_TOKENS))
    return 4 * tokens * (whole_layers * layer + (depth + 4) * hidden) + chunk
