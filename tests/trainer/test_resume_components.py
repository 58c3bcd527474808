"""Every optimizer, schedule and callback by name: a run resumes with it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from callbacks import CATALOG as CALLBACKS
from callbacks.trackers import TRACKERS
from trainer.optimizers import CATALOG as OPTIMIZERS
from trainer.schedules import CATALOG as SCHEDULES

STEPS = (
    "training.max_steps=6",
    "logging.logging_steps=2",
    "evaluation.eval_steps=3",
    "checkpoint.save_steps=3",
)
LINEAR = (
    "optimizer.optim_target_modules=[q_proj,down_proj]",
    "optimizer.rank=4",
    "optimizer.update_proj_gap=2",
)
# What an optimizer or a schedule needs to be told, by the beginning of its name.
OPTIONS: dict[str, tuple[str, ...]] = {
    "galore": LINEAR,
    "apollo": LINEAR,
    "schedule_free": ("schedule=constant_with_warmup",),
    "warmup_stable_decay": ("schedule.num_decay_steps=3",),
    "cosine_with_min_lr": ("schedule.min_lr_rate=0.1",),
    "cosine_warmup_with_min_lr": ("schedule.min_lr_rate=0.1",),
    "reduce_lr_on_plateau": ("evaluation.eval_steps=1", "schedule.patience=0", "schedule.threshold=0.5"),
}
CALLBACK_OPTIONS: dict[str, tuple[str, ...]] = {}


@pytest.fixture(autouse=True)
def nothing_is_compiled() -> Iterator[None]:
    """torchao compiles its update, which takes seconds and changes nothing of it."""
    with torch._dynamo.config.patch(disable=True):
        yield


def options(name: str) -> Sequence[str]:
    """The words for the longest beginning of a name."""
    found = [begin for begin in OPTIONS if name.startswith(begin)]
    return OPTIONS[max(found, key=len)] if found else ()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_resumes(resumes: Callable[..., Any], name: str) -> None:
    resumed = resumes(*STEPS, f"optimizer={name}", *options(name))
    assert resumed.run.updates == 6


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_resumes(resumes: Callable[..., Any], name: str) -> None:
    resumes(*STEPS, f"schedule={name}", *options(name))


@pytest.mark.parametrize("name", sorted(CALLBACKS.keys() - TRACKERS.keys()))
def test_a_callback_resumes(resumes: Callable[..., Any], name: str) -> None:
    words = CALLBACK_OPTIONS.get(name, (f"callbacks.{name}={{}}",))
    resumes(*STEPS, *words)
