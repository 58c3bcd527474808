"""Learning rates over the steps by name; a name has typed options (torch-free) and a function that builds it.

The function is called as ``schedule(options, optimizer, max_steps)`` and gives a ``Rates``
(reference: main_classes/optimizer_schedules).
"""

from __future__ import annotations

from trainer.schedules.options import (
    Constant,
    Cosine,
    SchedulerType,
    Warmup,
    misfits,
    refuse_misfits,
    warmup_steps,
)
from trainer.schedules.rates import FactorRates, PlateauRates, Rates, SteppedRates, is_plain

__all__ = [
    "CATALOG",
    "Constant",
    "Cosine",
    "FactorRates",
    "PlateauRates",
    "Rates",
    "SchedulerType",
    "SteppedRates",
    "Warmup",
    "is_plain",
    "misfits",
    "refuse_misfits",
    "warmup_steps",
]

CATALOG = {
    "constant": ("trainer.schedules.options:Constant", "trainer.schedules.builders:constant"),
    "constant_with_warmup": (
        "trainer.schedules.options:Warmup",
        "trainer.schedules.builders:constant_with_warmup",
    ),
    "linear": ("trainer.schedules.options:Warmup", "trainer.schedules.builders:linear"),
    "cosine": ("trainer.schedules.options:Cosine", "trainer.schedules.builders:cosine"),
    "cosine_with_restarts": (
        "trainer.schedules.options:CosineWithRestarts",
        "trainer.schedules.builders:cosine_with_restarts",
    ),
    "cosine_with_min_lr": (
        "trainer.schedules.options:CosineWithMinLR",
        "trainer.schedules.builders:cosine_with_min_lr",
    ),
    "cosine_warmup_with_min_lr": (
        "trainer.schedules.options:CosineWarmupWithMinLR",
        "trainer.schedules.builders:cosine_warmup_with_min_lr",
    ),
    "polynomial": ("trainer.schedules.options:Polynomial", "trainer.schedules.builders:polynomial"),
    "inverse_sqrt": ("trainer.schedules.options:InverseSqrt", "trainer.schedules.builders:inverse_sqrt"),
    "reduce_lr_on_plateau": (
        "trainer.schedules.options:Plateau",
        "trainer.schedules.builders:reduce_lr_on_plateau",
    ),
    "warmup_stable_decay": (
        "trainer.schedules.options:WarmupStableDecay",
        "trainer.schedules.builders:warmup_stable_decay",
    ),
}
