"""Which optimizer, schedule and average go together, and what an optimizer cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainer.config import RunConfig
from trainer.strength import strength

WITHOUT_DECAY = ("constant", "constant_with_warmup")


def optimization_problems(config: RunConfig, given: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each contradiction between optimizer, schedule, average and the training's options."""
    if config.task != "train":
        return
    if config.optimizer.updates_in_backward:
        yield from _updating_in_backward(config, given)
    if config.optimizer.averages_weights:
        yield from _averaging(config)
    if config.schedule.name == "reduce_lr_on_plateau":
        yield from _plateau(config)
    if getattr(config.optimizer.options, "relative_step", False):
        yield from _relative_step(config, given)


def optimization_advice(config: RunConfig) -> Iterator[str]:
    """Sentences on what runs and is not wise."""
    clips = config.training.max_grad_norm and not config.optimizer.updates_in_backward
    if clips and "adafactor" in config.optimizer.name:
        yield (
            f"training.max_grad_norm: {config.optimizer.name} clips its updates itself, and is best without "
            "clipped gradients; training.max_grad_norm=0 turns that off."
        )


def _updating_in_backward(config: RunConfig, given: Mapping[str, str]) -> Iterator[str]:
    name, training = config.optimizer.name, config.training
    because = f"{name} updates each weight as soon as its gradient is there"
    if training.gradient_accumulation_steps > 1:
        yield (
            f"training.gradient_accumulation_steps: {training.gradient_accumulation_steps} was given, and "
            f"{because}; take 1 with a larger per_device_train_batch_size."
        )
    if training.max_grad_norm and strength("training.max_grad_norm", given):
        yield (
            f"training.max_grad_norm: {training.max_grad_norm:g} was given, and {because}, before the norm "
            "of all is known; leave it out."
        )
    for path, value in (
        ("training.auto_find_batch_size", training.auto_find_batch_size),
        ("precision.fp16", config.precision.fp16),
    ):
        if value:
            yield f"{path}: {because}, which cannot be taken back; leave it out."


def _averaging(config: RunConfig) -> Iterator[str]:
    name = config.optimizer.name
    if config.averaging.name != "none":
        yield f"averaging: {name} averages the weights itself; leave {config.averaging.name!r} out."
    if config.schedule.name not in WITHOUT_DECAY:
        yield (
            f"schedule: {name} takes the place of a schedule, and {config.schedule.name!r} would slow it "
            f"down; say schedule={' or '.join(WITHOUT_DECAY)}."
        )


def _plateau(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.eval_strategy == "no":
        yield "schedule: 'reduce_lr_on_plateau' follows evaluations; set evaluation.eval_strategy."
        return
    greater = evaluation.greater_is_better
    if greater is None:
        greater = not (evaluation.metric_for_best_model or "loss").endswith("loss")
    mode = config.schedule.mode
    if (mode == "max") != greater:
        yield (
            f"schedule.mode: {mode!r} does not fit a metric of which {'more' if greater else 'less'} is "
            f"better; say {'max' if greater else 'min'}."
        )


def _relative_step(config: RunConfig, given: Mapping[str, str]) -> Iterator[str]:
    asked = strength("optimizer.relative_step", given)
    if strength("optimizer.learning_rate", given) >= max(1, asked):
        yield (
            "optimizer.learning_rate: with optimizer.relative_step the optimizer finds its own; leave one of "
            "them out."
        )
    if config.schedule.name != "constant":
        yield (
            f"schedule: with optimizer.relative_step the optimizer finds its own rate, which "
            f"{config.schedule.name!r} would not change; say schedule=constant."
        )
