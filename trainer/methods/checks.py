"""What does not fit together among a program's objects, and errors in the words that a program uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from conf.errors import ConfigError, StockpotError
from trainer.arguments import in_flat_names, run_config
from trainer.checks import found_in
from trainer.config import RunConfig
from trainer.methods.data import DataMethods
from trainer.methods.steps import StepMethods
from trainer.training_arguments import TrainingArguments

# How a program resumes.
_WORDS = {"resume=auto": "resume_from_checkpoint=True", "`auto`": "True"}
# What only a function that looks at all predictions can be affected by.
FOR_COMPUTE_METRICS = ("include_for_metrics", "batch_eval_metrics")

# Methods that a program may call, and the loop does not.
UNHEARD = {"get_batch_samples": StepMethods, "set_initial_training_values": DataMethods}


def decoded(args: TrainingArguments) -> tuple[RunConfig, dict[str, str]]:
    """The configuration of some arguments, judged as a whole, and which paths were given."""
    if not isinstance(args, TrainingArguments):
        kind = f"{type(args).__module__}.{type(args).__name__}"
        raise ConfigError(f"args: this library's TrainingArguments are wanted, a {kind} was given.")
    config, given = run_config(args)
    if problems := list(found_in(config, given)):
        raise ConfigError(problems)
    return replace(config, task="train"), given


@contextmanager
def in_words_of_programs() -> Iterator[None]:
    """Let errors name the flat arguments, where they would name paths of a recipe."""
    try:
        yield
    except StockpotError as error:
        if isinstance(error, ConfigError):
            error.problems = tuple(map(_reworded, error.problems))
        error.args = tuple(_reworded(text) if isinstance(text, str) else text for text in error.args)
        raise


def _reworded(text: str) -> str:
    text = "\n".join(map(in_flat_names, text.split("\n")))
    for recipe, program in _WORDS.items():
        text = text.replace(recipe, program)
    return text


def refuse(trainer: Any, model: Any) -> None:
    """``ConfigError`` with all that does not fit together of what a ``Trainer`` was given."""
    if problems := [*_wrong_makers(trainer, model), *_wrong_functions(trainer)]:
        raise ConfigError(problems)


def _wrong_makers(trainer: Any, model: Any) -> Iterator[str]:
    """Of the model, the optimizer and the schedule."""
    if (model is None) == (trainer.model_init is None):
        yield "model: give it or model_init, and not both."
    given = any(part is not None for part in (trainer.optimizer, trainer.lr_scheduler))
    if trainer.model_init is not None and given:
        yield "optimizers: they are of another model than model_init makes; leave one of them out."
    if trainer.optimizer_cls_and_kwargs is not None and trainer.optimizer is not None:
        yield "optimizer_cls_and_kwargs: given together with optimizers; leave one of them out."
    if (
        isinstance(trainer.lr_scheduler, ReduceLROnPlateau)
        and trainer.config.evaluation.eval_strategy == "no"
    ):
        yield "optimizers: a ReduceLROnPlateau follows evaluations, and there are none; set eval_strategy."


def idle_beside_brought(trainer: Any) -> Iterator[str]:
    """Sentences on given options of an optimizer or a schedule that the program made itself."""
    for brought, section, kept in (
        (trainer.optimizer, "optimizer", ""),
        (trainer.optimizer_cls_and_kwargs, "optimizer", "optimizer.weight_decay"),
        (trainer.lr_scheduler, "schedule", ""),
    ):
        for path in trainer.given if brought is not None else ():
            if path.startswith(f"{section}.") and path != kept:
                yield f"{path}: it has no effect beside the {section} that the program brings."


def _wrong_functions(trainer: Any) -> Iterator[str]:
    """Of the functions and what the arguments say of them."""
    config, compute = trainer.config, trainer.compute_metrics
    for name in ("data_collator", "compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"):
        if (value := getattr(trainer, name)) is not None and not callable(value):
            yield f"{name}: a function is wanted, a {type(value).__name__} was given."
    overridden = type(trainer).get_eval_dataloader is not DataMethods.get_eval_dataloader
    evaluates = config.evaluation.eval_strategy != "no" or config.evaluation.eval_on_start
    if evaluates and trainer.eval_dataset is None and not overridden:
        yield "eval_strategy: it needs an eval_dataset; give one, or 'no'."
    if compute is None:
        for name in FOR_COMPUTE_METRICS:
            if getattr(config.evaluation, name):
                yield f"{name}: it is about compute_metrics, and there is none; leave it out."
    elif config.evaluation.batch_eval_metrics and callable(compute) and not takes(compute, "compute_result"):
        yield (
            "compute_metrics: batch_eval_metrics calls it with compute_result, which it does not take; add "
            "that argument."
        )
    if compute is not None and config.evaluation.prediction_loss_only:
        yield "prediction_loss_only: compute_metrics would not be called; leave one of them out."
    for name, owner in UNHEARD.items():
        if getattr(type(trainer), name) is not getattr(owner, name):
            yield (
                f"{name}: the loop goes by get_train_dataloader and the arguments, and would not hear this "
                "override; override get_train_dataloader, compute_loss or training_step."
            )
    if config.training.label_smoothing_factor and trainer.compute_loss_func is not None:
        yield "label_smoothing_factor: compute_loss_func makes the whole loss; leave one of them out."
    if config.generation.predict_with_generate and not trainer.generates:
        yield "predict_with_generate: it is the Seq2SeqTrainer that generates; use that, or leave it out."


def refuse_smoothing(model: Any) -> None:
    """``ConfigError`` for a model whose right answers may be several."""
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    if problem == "multi_label_classification":
        raise ConfigError(
            "label_smoothing_factor: it spreads one right class over the others, and a multi-label model has "
            "several; leave it out."
        )


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function can be called with an argument of this name."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    kinds = [p.kind for p in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds
