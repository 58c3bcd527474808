"""The reference's functions that give a program a scheduler of torch's, of the same factors as a recipe's.

Names, arguments and defaults are those of main_classes/optimizer_schedules, and so is what they do. A value
that cannot be meant is a ``ValueError`` that says what would do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from conf.plugins import nearest
from trainer.schedules import factors
from trainer.schedules.builders import base_rate, lowest_share
from trainer.schedules.options import (
    CosineWarmupWithMinLR,
    CosineWithMinLR,
    InverseSqrt,
    Polynomial,
    SchedulerType,
    WarmupStableDecay,
    misfits,
)


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The base rate, always."""
    return LambdaLR(optimizer, factors.constant(), last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then stay at the peak."""
    return LambdaLR(optimizer, factors.constant_with_warmup(num_warmup_steps), last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then fall in a straight line to 0."""
    return LambdaLR(optimizer, factors.linear(num_warmup_steps, num_training_steps), last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then follow a cosine of ``num_cycles`` waves."""
    factor = factors.cosine(num_warmup_steps, num_training_steps, num_cycles=num_cycles)
    return LambdaLR(optimizer, factor, last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: int = 1,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then fall along half a cosine ``num_cycles`` times."""
    factor = factors.cosine_with_restarts(num_warmup_steps, num_training_steps, num_cycles=num_cycles)
    return LambdaLR(optimizer, factor, last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, then fall to the rate ``lr_end`` by a power of what is left."""
    options = _fitting(Polynomial(lr_end=lr_end, power=power), optimizer)
    factor = factors.polynomial(
        num_warmup_steps,
        num_training_steps,
        lr_init=base_rate(optimizer),
        lr_end=options.lr_end,
        power=options.power,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Warm up, then fall with the square root of the steps in units of ``timescale``."""
    options = InverseSqrt(timescale=timescale)
    factor = factors.inverse_sqrt(num_warmup_steps, timescale=options.timescale)
    return LambdaLR(optimizer, factor, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **kwargs: Any) -> ReduceLROnPlateau:
    """Fall when a metric has stopped getting better; the arguments are those of torch's class."""
    return ReduceLROnPlateau(optimizer, **kwargs)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Warm up, then follow a cosine down to ``min_lr``, or to ``min_lr_rate`` times the peak."""
    options = CosineWithMinLR(num_cycles=num_cycles, min_lr=min_lr, min_lr_rate=min_lr_rate)
    factor = factors.cosine(
        num_warmup_steps,
        num_training_steps,
        num_cycles=num_cycles,
        min_lr_rate=lowest_share(_fitting(options, optimizer), optimizer),
    )
    return LambdaLR(optimizer, factor, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """The same, with a warm-up from ``warmup_lr_rate`` times the peak, or a first step of 1/n of it."""
    options = CosineWarmupWithMinLR(
        num_cycles=num_cycles, min_lr=min_lr, min_lr_rate=min_lr_rate, warmup_lr_rate=warmup_lr_rate
    )
    factor = factors.cosine_warmup_with_min_lr(
        num_warmup_steps,
        num_training_steps,
        num_cycles=num_cycles,
        min_lr_rate=lowest_share(_fitting(options, optimizer), optimizer),
        warmup_lr_rate=warmup_lr_rate,
    )
    return LambdaLR(optimizer, factor, last_epoch)


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Rise, stay for ``num_stable_steps`` (or what the other two leave of all steps), and fall."""
    for name, value in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if value not in factors.RISES:
            raise ValueError(f"{name}: there is no {value!r}; {nearest(value, factors.RISES)}")
    if num_stable_steps is None:
        if num_training_steps is None:
            raise ValueError("num_training_steps: it or num_stable_steps is required and none was given.")
        lengths = WarmupStableDecay(warmup_steps=num_warmup_steps, num_decay_steps=num_decay_steps)
        _fitting(lengths, optimizer, num_training_steps)
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    factor = factors.warmup_stable_decay(
        num_warmup_steps,
        num_stable_steps,
        num_decay_steps,
        warmup_type=warmup_type,
        decay_type=decay_type,
        min_lr_ratio=min_lr_ratio,
        num_cycles=num_cycles,
    )
    return LambdaLR(optimizer, factor, last_epoch)


FUNCTIONS: Mapping[SchedulerType, Callable[..., LRScheduler]] = {
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.COSINE_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: get_reduce_on_plateau_schedule,
    SchedulerType.WARMUP_STABLE_DECAY: get_wsd_schedule,
}


def get_scheduler(
    name: str | SchedulerType,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LRScheduler:
    """The scheduler of that name, with further arguments of its function in ``scheduler_specific_kwargs``.

    The lengths are given to those that have them. Raises ``ConfigError`` for an unknown name, ``ValueError``
    for a length that is missing.
    """
    name = SchedulerType(name)
    make = FUNCTIONS[name]
    lengths = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    parameters = inspect.signature(make).parameters
    taken = {key: value for key, value in lengths.items() if key in parameters}
    for key, value in taken.items():
        if value is None and parameters[key].default is inspect.Parameter.empty:
            raise ValueError(f"{key}: {name.value} needs it and none was given.")
    return make(optimizer, **taken, **(scheduler_specific_kwargs or {}))


def _fitting(options: Any, optimizer: Optimizer, max_steps: int | None = None) -> Any:
    """The options, if they fit."""
    for problem in misfits(options, learning_rate=base_rate(optimizer), max_steps=max_steps):
        raise ValueError(problem)
    return options
