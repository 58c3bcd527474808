"""What of optimizer, schedule and average does not go together is said before anything is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conf import compose
from conf.decode import decode
from conf.errors import ConfigError, NonFiniteError
from conf.plugins import Package
from tests.trainer.small_program import lines, program, tagger, trained
from trainer.checks import judged, without_foreign
from trainer.config import RunConfig
from trainer.optimization_judge import optimization_advice

IN_BACKWARD = "updates each weight as soon as its gradient is there"


def problems(*words: str) -> list[str]:
    """What is said of a recipe with these words."""
    composed = compose.compose(["+recipe=sft_llama", *words])
    assert composed is not None
    data, _ = without_foreign(composed.data, composed.given)
    try:
        judged(data, composed.given)
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (["optimizer=lomo"], []),
        (
            ["optimizer=lomo", "training.gradient_accumulation_steps=4"],
            [
                f"training.gradient_accumulation_steps: 4 was given, and lomo {IN_BACKWARD}; take 1 with a "
                "larger per_device_train_batch_size."
            ],
        ),
        (
            ["optimizer=adalomo", "training.max_grad_norm=0.5"],
            [
                f"training.max_grad_norm: 0.5 was given, and adalomo {IN_BACKWARD}, before the norm of all "
                "is known; leave it out."
            ],
        ),
        (["optimizer=lomo", "training.max_grad_norm=0"], []),
        (
            ["optimizer=galore_adamw_layerwise", "precision=fp16", "training.auto_find_batch_size=true"],
            [
                f"training.auto_find_batch_size: galore_adamw_layerwise {IN_BACKWARD}, which cannot be taken "
                "back; leave it out.",
                f"precision.fp16: galore_adamw_layerwise {IN_BACKWARD}, which cannot be taken back; leave it "
                "out.",
            ],
        ),
        (["optimizer=schedule_free_sgd", "schedule=constant_with_warmup"], []),
        (["schedule=reduce_lr_on_plateau"], []),
        (
            ["schedule=reduce_lr_on_plateau", "evaluation=none"],
            ["schedule: 'reduce_lr_on_plateau' follows evaluations; set evaluation.eval_strategy."],
        ),
        (
            ["schedule=reduce_lr_on_plateau", "schedule.mode=max"],
            ["schedule.mode: 'max' does not fit a metric of which less is better; say min."],
        ),
        (
            [
                "schedule=reduce_lr_on_plateau",
                "metrics=[accuracy]",
                "evaluation.metric_for_best_model=accuracy",
            ],
            ["schedule.mode: 'min' does not fit a metric of which more is better; say max."],
        ),
        (
            ["optimizer=adafactor", "optimizer.relative_step=true"],
            [
                "schedule: with optimizer.relative_step the optimizer finds its own rate, which 'cosine' "
                "would not change; say schedule=constant."
            ],
        ),
        (["optimizer=adafactor", "optimizer.relative_step=true", "schedule=constant"], []),
        (
            [
                "optimizer=adafactor",
                "optimizer.relative_step=true",
                "schedule=constant",
                "optimizer.learning_rate=1e-3",
            ],
            [
                "optimizer.learning_rate: with optimizer.relative_step the optimizer finds its own; leave "
                "one of them out."
            ],
        ),
    ],
    ids=lambda value: " ".join(value)[:80] if value and "=" in value[0] else None,
)
def test_what_does_not_go_together(words: Sequence[str], sentences: Sequence[str]) -> None:
    assert problems(*words) == sentences


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Package, "is_missing", property(lambda package: package.module != "wandb"))
    said = problems("optimizer=adamw_8bit", "logging.report_to=[wandb,mlflow,trackio]", "callbacks.wandb={}")
    assert said == [
        "optimizer: adamw_8bit cannot be used; it needs the package bitsandbytes; pip install "
        "'stockpot[bitsandbytes]'.",
        "logging.report_to: mlflow cannot be used; it needs the package mlflow; pip install "
        "'stockpot[mlflow]'.",
        "logging.report_to: trackio cannot be used; it needs the package trackio; pip install "
        "'stockpot[trackio]'.",
    ]


def test_clipping_twice_is_advised_against(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    data = {"optimizer": {"name": "adafactor"}}
    (advice,) = optimization_advice(decode(RunConfig, data))
    assert advice.startswith(
        "training.max_grad_norm: adafactor clips its updates itself, and is best without"
    )
    assert list(optimization_advice(decode(RunConfig, {**data, "training": {"max_grad_norm": 0}}))) == []
    assert advice in train(*tiny, "optimizer=adafactor").out


def test_several_processes_are_refused_where_each_updates_alone(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    done = train(*tiny, "optimizer=lomo", "check=true")
    assert str(done.error) == (
        "optimizer: lomo updates each weight before the other 1 of 2 processes are heard; start one process, "
        "or choose another."
    )


# -- in a training ---------------------------------------------------------------------------------------


def test_the_norm_is_told_though_no_gradient_is_left(tmp_path: Path) -> None:
    given = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    plain = trained(tmp_path, optim="sgd", max_grad_norm=0.0, **given)
    within = trained(tmp_path, optim="lomo", **given)
    assert lines(within, "grad_norm") == pytest.approx(lines(plain, "grad_norm"), rel=1e-5)
    assert lines(within, "loss") == pytest.approx(lines(plain, "loss"), rel=1e-5)


def test_an_update_that_cannot_be_taken_back_is_admitted(tmp_path: Path) -> None:
    broken = tagger()
    with torch.no_grad():
        broken.words.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="what its backward pass reached before was updated, as this"):
        program(tmp_path, parts={"model": broken}, optim="lomo").train()
