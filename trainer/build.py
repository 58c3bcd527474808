"""From a configuration, prepared data and a plan to a ``Run``; the only module that sees everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from callbacks import CATALOG as CALLBACKS
from collators import CATALOG as COLLATORS
from conf.errors import ConfigError
from conf.plugins import nearest, options_of, thing_of
from models import CATALOG as FAMILIES
from models.auto import build_model
from models.config import ModelConfig
from models.heads.chunked import CHUNK_BYTES, CHUNK_TOKENS
from models.layers.embeddings import EncoderEmbeddings
from models.loading import torch_dtype
from models.task_model import TaskModel
from models.tasks import family_table
from models.weights import checkpoint_names
from processors.rendering import stop_ids
from trainer.assemble import Parts, assemble, make_publisher, refuse_on_device
from trainer.averaging.choice import averaging_of
from trainer.config import RunConfig
from trainer.data.batches import Batches, EvaluationBatches
from trainer.data.cache import TokenRows
from trainer.data.rows import RowSet
from trainer.evaluator import Evaluator
from trainer.freezing import freeze
from trainer.metrics import CATALOG as METRICS
from trainer.model_files import model_files, start_from
from trainer.model_options import apply_options
from trainer.objectives import CATALOG as OBJECTIVES
from trainer.objectives.objective import Objective
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.optimizers.groups import parameter_groups
from trainer.plan import Plan, make_plan
from trainer.prepare import Prepared, stream_of
from trainer.ranks.ranks import Ranks
from trainer.run import Run, StepStream
from trainer.run_folder import RunFolder
from trainer.schedules import CATALOG as SCHEDULES
from trainer.schedules import refuse_misfits
from trainer.seeding import set_seed
from trainer.special_tokens import align_special_tokens
from trainer.state import TrainerCallback

Say = Callable[[str], None]


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

    Raises ``ConfigError`` for what ``fitting`` refuses, for documents beyond the model's positions, and for a
    schedule that does not fit the steps.
    """
    _, shapes = fitting(config, facts)
    refuse_longer(config, shapes, [*prepared.train.values(), *prepared.validation.values()])
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
    rate = config.optimizer.options.learning_rate
    refuse_misfits(config.schedule.options, learning_rate=rate, max_steps=plan.max_steps)
    return Materials(
        config=config,
        prepared=prepared,
        model_config=facts,
        rows=rows,
        plan=plan,
        num_threads=num_threads,
    )


def fitting(config: RunConfig, facts: ModelConfig) -> tuple[Objective, TaskModel]:
    """The objective and the model's shapes, on which every option about them was tried; no data is needed.

    Raises ``ConfigError`` for a family that the objective cannot train, a metric that it does not have, what
    this device cannot do, and options of model, objective, optimizer or freezing that do not fit the model.
    """
    objective = objective_of(config)
    refuse_on_device(config)
    shapes = made(config, facts, objective, device="meta")
    objective.suits(shapes)
    if config.task == "train":
        _refuse_metric(config, objective)
        _freeze(shapes, config)
        parameter_groups(shapes, checkpoint_names(shapes), config.optimizer.options)  # raises what is wrong
    return objective, shapes


def refuse_longer(config: RunConfig, model: TaskModel, sources: Sequence[TokenRows]) -> None:
    """``ConfigError`` for a document with more tokens than the model has embeddings of positions."""
    tables = [module for module in model.modules() if isinstance(module, EncoderEmbeddings)]
    lengths = [int(rows.lengths.max()) for rows in sources if len(rows)]
    longest = config.data.max_length if config.data.streaming else max(lengths, default=0)
    for table in tables:
        if longest > table.longest:
            raise ConfigError(
                f"data.max_length: {config.data.max_length} lets through documents of {longest} tokens, and "
                f"this {model.config.model_type} has {table.longest} positions; lower it to that."
            )


def objective_of(config: RunConfig) -> Objective:
    """The training method that a configuration names; ``ConfigError`` where it cannot smooth its labels."""
    thing = thing_of(OBJECTIVES, config.objective.name, "objective.name")
    smoothing = config.training.label_smoothing_factor
    if not smoothing:
        return thing(config.objective.options)
    if not getattr(thing, "smooths_labels", False):
        raise ConfigError(
            f"training.label_smoothing_factor: {smoothing} cannot be used with {config.objective.name}, "
            "whose loss is over no vocabulary or set of classes; leave it out."
        )
    return thing(config.objective.options, label_smoothing=smoothing)


def _refuse_metric(config: RunConfig, objective: Objective) -> None:
    """Unless ``metric_for_best_model`` is something that an evaluation will give."""
    given = config.evaluation.metric_for_best_model
    sets = config.data.validation if len(config.data.validation) > 1 else ()
    names = [*objective.coefficients, *(name for metric in make_metrics(config) for name in metric.names)]
    known = [*names, *(f"{data}_{name}" for data in sets for name in names)]
    if given is not None and (metric := given.removeprefix("eval_")) not in known:
        raise ConfigError(
            f"evaluation.metric_for_best_model: there is no {given!r}; {nearest(metric, known)}"
        )


def build_run(materials: Materials, folder: RunFolder, ranks: Ranks, *, say: Say, undo: ExitStack) -> Run:
    """Make every part and put them together; a checkpoint to go on from is restored by the caller.

    Raises ``CheckpointError`` for weights that do not fit.
    """
    config, tokenizer = materials.config, materials.prepared.tokenizer
    objective = objective_of(config)
    model = make_model(materials, objective, folder.checkpoint, say)
    files = model_files(model, max_shard_size=config.checkpoint.max_shard_size, stop_ids=stop_ids(tokenizer))
    for note in (align_special_tokens(model, tokenizer), *apply_options(model, config.training, undo)):
        if note:
            say(note)
    _freeze(model, config)
    model.to(ranks.device)
    optimizer = make_optimizer(config, model)
    schedule = thing_of(SCHEDULES, config.schedule.name, "schedule.name")
    sets = evaluation_sets(materials, objective, ranks)
    per_token = model.flops_per_token()
    parts = Parts(
        model=model,
        objective=objective,
        optimizer=optimizer,
        rates=schedule(config.schedule.options, optimizer, materials.plan.max_steps),
        batches=make_batches(materials, objective, ranks),
        evaluator=Evaluator(objective, ranks, sets, metrics=make_metrics(config)),
        callbacks=make_callbacks(config),
        processor=tokenizer,
        flops=lambda batch: per_token * batch["input_ids"].numel(),
        files=files,
        main_input_name=model.main_input_name,
        eval_dataloader=sets,
        publisher=make_publisher(config, folder, ranks),
        averaging=averaging_of(config, optimizer),
    )
    return assemble(
        config,
        materials.plan,
        parts,
        folder=folder,
        ranks=ranks,
        num_threads=materials.num_threads,
        say=say,
        undo=undo,
    )


def made(config: RunConfig, facts: ModelConfig, objective: Objective, *, device: str = "cpu") -> TaskModel:
    """The model that a configuration describes, with fresh weights, or shapes only on the meta device."""
    section = config.model
    _refuse_family(facts.model_type, objective.head)
    model = build_model(
        facts,
        objective.head,
        device=device,
        dtype=torch_dtype(section.dtype),
        attn_implementation=section.attn_implementation,
    )
    if section.experts_implementation is not None:
        if not hasattr(model.backbone, "set_experts_implementation"):
            raise ConfigError(
                f"model.experts_implementation: this {facts.model_type} has no experts; leave it out."
            )
        try:
            model.set_experts_implementation(section.experts_implementation)
        except ConfigError as error:
            raise ConfigError([f"model.{problem}" for problem in error.problems]) from None
    return model


def _refuse_family(model_type: str, head: str) -> None:
    """``ConfigError`` for a family without this head."""
    if head not in family_table(model_type).TASKS:
        having = ", ".join(name for name in FAMILIES if head in family_table(name).TASKS)
        raise ConfigError(f"model: {model_type} has no head for {head}; families that have one are {having}.")


def make_model(materials: Materials, objective: Objective, checkpoint: Path | None, say: Say) -> TaskModel:
    """The model with its weights: of the checkpoint, of ``model.path``, or drawn from the seed."""
    path = materials.config.model.path
    source = checkpoint or (Path(path) if path else None)
    build = partial(made, materials.config, materials.model_config, objective)
    if checkpoint is None:
        set_seed(materials.config.training.seed)
    if source is None:
        return build()
    model = build(device="meta")
    if checkpoint is None:
        for note in start_from(model, source):
            say(note)
    else:
        model_files(model, max_shard_size=materials.config.checkpoint.max_shard_size).load(model, source)
    return model


def _freeze(model: TaskModel, config: RunConfig) -> None:
    """Let only the parameters be trained that the configuration wants."""
    training = config.training
    freeze(
        model,
        checkpoint_names(model),
        frozen=training.frozen_parameters,
        unfrozen=training.unfrozen_parameters,
    )


def make_optimizer(config: RunConfig, model: TaskModel) -> torch.optim.Optimizer:
    """The optimizer over the trainable parameters."""
    groups = parameter_groups(model, checkpoint_names(model), config.optimizer.options)
    make = thing_of(OPTIMIZERS, config.optimizer.name, "optimizer.name")
    return make(config.optimizer.options, groups)


def make_collator(prepared: Prepared, objective: Objective, *, packing: bool) -> Any:
    """The objective's own collator, with its default options."""
    name = objective.collator(packing=packing)
    options = options_of(COLLATORS, name, "collator")()
    return thing_of(COLLATORS, name, "collator")(options, tokenizer=prepared.tokenizer)


def make_metrics(config: RunConfig) -> list[Any]:
    """The streaming metrics of an evaluation, in the recipe's order."""
    return [
        thing_of(METRICS, choice.name, f"metrics.{key}")(choice.options)
        for key, choice in config.metrics.items()
    ]


def make_batches(materials: Materials, objective: Objective, ranks: Ranks) -> StepStream:
    """The stream of optimizer steps of this rank."""
    config, training, data = materials.config, materials.config.training, materials.config.data
    collator = make_collator(materials.prepared, objective, packing=data.packing)
    if materials.rows is None:
        return stream_of(config, materials.prepared, collator, rank=ranks.rank, world_size=ranks.world_size)
    return Batches(
        materials.rows,
        collator,
        seed=training.order_seed,
        per_device_batch_size=training.per_device_train_batch_size,
        accumulation=training.gradient_accumulation_steps,
        rank=ranks.rank,
        world_size=ranks.world_size,
        shuffle=data.shuffle,
        drop_last=data.dataloader_drop_last,
        lengths=materials.rows.lengths if data.groups_by_length else None,
        **loader_options(config, ranks),
        persistent_workers=data.dataloader_persistent_workers,
    )


def loader_options(config: RunConfig, ranks: Ranks) -> dict[str, Any]:
    """How batches are loaded, which changes nothing of what they are."""
    data = config.data
    return {
        "num_workers": data.dataloader_num_workers,
        "prefetch_factor": data.dataloader_prefetch_factor or 2,
        "pin_memory": data.dataloader_pin_memory and ranks.device.type != "cpu",
    }


def evaluation_sets(materials: Materials, objective: Objective, ranks: Ranks) -> dict[str, EvaluationBatches]:
    """This rank's share of each validation source."""
    config = materials.config
    if config.evaluation.eval_strategy == "no" and not config.evaluation.eval_on_start:
        return {}
    prepared, packing = materials.prepared, config.data.packing
    return sets_of(prepared.validation, config, prepared, objective, ranks, packing=packing)


def sets_of(
    sources: Mapping[str, TokenRows],
    config: RunConfig,
    prepared: Prepared,
    objective: Objective,
    ranks: Ranks,
    *,
    packing: bool,
) -> dict[str, EvaluationBatches]:
    """This rank's share of each of these sources, in their order."""
    collator = make_collator(prepared, objective, packing=packing)
    return {
        name: EvaluationBatches(
            RowSet([rows], capacity=config.data.max_length if packing else None),
            collator,
            per_device_batch_size=config.evaluation.per_device_eval_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            **loader_options(config, ranks),
        )
        for name, rows in sources.items()
    }


def make_callbacks(config: RunConfig) -> list[TrainerCallback]:
    """What the recipe names, in its order."""
    chosen = []
    for key, choice in config.callbacks.items():
        thing = thing_of(CALLBACKS, choice.name, f"callbacks.{key}")
        chosen.append(choice.options if thing is type(choice.options) else thing(choice.options))
    return [*chosen, *callbacks_of_options(config)]


def callbacks_of_options(config: RunConfig) -> list[TrainerCallback]:
    """What ``logging`` asks for: its trackers, and the search for numbers that are not finite.

    One that has a section of ``callbacks`` is there already.
    """
    asked = [*config.logging.trackers, *config.logging.debugging]
    sections = {choice.name for choice in config.callbacks.values()}
    return [options_of(CALLBACKS, name, "logging")() for name in asked if name not in sections]


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
