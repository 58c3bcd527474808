"""From a schedule's options to the rates of an optimizer; ``ConfigError`` for what does not fit it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainer.schedules import factors
from trainer.schedules.factors import Factor
from trainer.schedules.options import (
    Constant,
    Cosine,
    CosineWarmupWithMinLR,
    CosineWithMinLR,
    CosineWithRestarts,
    InverseSqrt,
    Plateau,
    Polynomial,
    Warmup,
    WarmupStableDecay,
    decay_steps,
    refuse_misfits,
    warmup_steps,
)
from trainer.schedules.rates import FactorRates, PlateauRates, Rates


def constant(options: Constant, optimizer: Any, max_steps: int) -> Rates:
    """The base rate, always."""
    return FactorRates(optimizer, factors.constant())


def constant_with_warmup(options: Warmup, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then stay at the peak."""
    return FactorRates(optimizer, factors.constant_with_warmup(warmup_steps(options, max_steps)))


def linear(options: Warmup, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then fall in a straight line to 0 at ``max_steps``."""
    return FactorRates(optimizer, factors.linear(warmup_steps(options, max_steps), max_steps))


def cosine(options: Cosine, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then follow a cosine."""
    warmup = warmup_steps(options, max_steps)
    return FactorRates(optimizer, factors.cosine(warmup, max_steps, num_cycles=options.num_cycles))


def cosine_with_restarts(options: CosineWithRestarts, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then fall along half a cosine several times."""
    warmup = warmup_steps(options, max_steps)
    factor = factors.cosine_with_restarts(warmup, max_steps, num_cycles=options.num_cycles)
    return FactorRates(optimizer, factor)


def cosine_with_min_lr(options: CosineWithMinLR, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then follow a cosine down to a lowest rate."""
    factor = factors.cosine(
        warmup_steps(options, max_steps),
        max_steps,
        num_cycles=options.num_cycles,
        min_lr_rate=lowest_share(options, optimizer),
    )
    return _fitting(options, optimizer, max_steps, factor)


def cosine_warmup_with_min_lr(options: CosineWarmupWithMinLR, optimizer: Any, max_steps: int) -> Rates:
    """Warm up from above 0, then follow a cosine down to a lowest rate."""
    factor = factors.cosine_warmup_with_min_lr(
        warmup_steps(options, max_steps),
        max_steps,
        num_cycles=options.num_cycles,
        min_lr_rate=lowest_share(options, optimizer),
        warmup_lr_rate=options.warmup_lr_rate,
    )
    return _fitting(options, optimizer, max_steps, factor)


def polynomial(options: Polynomial, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then fall to a lowest rate by a power of what is left."""
    factor = factors.polynomial(
        warmup_steps(options, max_steps),
        max_steps,
        lr_init=base_rate(optimizer),
        lr_end=options.lr_end,
        power=options.power,
    )
    return _fitting(options, optimizer, max_steps, factor)


def inverse_sqrt(options: InverseSqrt, optimizer: Any, max_steps: int) -> Rates:
    """Warm up, then fall with the square root of the steps."""
    factor = factors.inverse_sqrt(warmup_steps(options, max_steps), timescale=options.timescale)
    return FactorRates(optimizer, factor)


def reduce_lr_on_plateau(options: Plateau, optimizer: Any, max_steps: int) -> Rates:
    """Fall when evaluations stop getting better."""
    refuse_misfits(options, learning_rate=base_rate(optimizer), max_steps=max_steps)
    return PlateauRates(ReduceLROnPlateau(optimizer, **asdict(options)))


def warmup_stable_decay(options: WarmupStableDecay, optimizer: Any, max_steps: int) -> Rates:
    """Rise, stay and fall."""
    warmup, decay = warmup_steps(options, max_steps), decay_steps(options, max_steps)
    stable = max_steps - warmup - decay if options.num_stable_steps is None else options.num_stable_steps
    factor = factors.warmup_stable_decay(
        warmup,
        stable,
        decay,
        warmup_type=options.warmup_type,
        decay_type=options.decay_type,
        min_lr_ratio=options.min_lr_ratio,
        num_cycles=options.num_cycles,
    )
    return _fitting(options, optimizer, max_steps, factor)


def base_rate(optimizer: Any) -> float:
    """What absolute rates are relative to: the optimizer's own, whatever those of its groups are."""
    return float(optimizer.defaults["lr"])


def lowest_share(options: CosineWithMinLR, optimizer: Any) -> float:
    """The lowest rate as a share of the optimizer's."""
    if options.min_lr_rate is not None:
        return options.min_lr_rate
    assert options.min_lr is not None, "the options want one of the two"
    return options.min_lr / base_rate(optimizer)


def _fitting(options: Any, optimizer: Any, max_steps: int, factor: Factor) -> Rates:
    refuse_misfits(options, learning_rate=base_rate(optimizer), max_steps=max_steps)
    return FactorRates(optimizer, factor)
