"""Training in half precision: close to fp32, and what happens when a gradient overflows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.faults import after_backward, overflow
from tests.trainer.saved_runs import digest, distance, lines
from trainer.objectives.causal_lm import CausalLM
from trainer.objectives.objective import Loss
from trainer.ranks.ranks import Ranks

EACH_STEP = (
    "training.max_steps=4",
    "logging.logging_steps=1",
    "evaluation.eval_steps=4",
    "checkpoint.save_steps=1",
    "checkpoint.save_total_limit=null",
    "callbacks.progress=null",
)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-3), ("fp16", 2e-4)])
def test_training_is_close_to_fp32(train: Any, tiny: Sequence[str], precision: str, tolerance: float) -> None:
    """A number has 8 bits in bf16 and 11 in fp16; weights and optimizer stay in fp32."""
    words = ("training.max_steps=20", "evaluation.eval_steps=20", "logging.logging_steps=1")
    folders: list[Path] = []
    for name in ("fp32", precision):
        done = train(*tiny, *words, f"precision={name}", f"output_dir={name}")
        assert done.status == 0, done.error
        folders.append(done.folder)
        assert {p.dtype for p in done.run.model.parameters()} == {torch.float32}
    exact, rounded = ([line["loss"] for line in lines(f) if "loss" in line] for f in folders)
    assert len(exact) == 20
    assert rounded == pytest.approx(exact, rel=tolerance)
    assert rounded != exact, "it did compute in another type"
    assert distance(*folders) < 100 * tolerance


def test_an_overflow_leaves_the_update_out_and_does_not_step_the_schedule(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after_backward(monkeypatch, overflow, {2})
    done = train(*tiny, *EACH_STEP, "precision=fp16")
    assert done.status == 0, done.error
    weights = [digest(done.folder / f"checkpoint-{step}/model.safetensors") for step in (1, 2, 3, 4)]
    assert weights[0] == weights[1]
    assert len(set(weights)) == 3
    moments = [digest(done.folder / f"checkpoint-{n}/training/optimizer.safetensors") for n in (1, 2)]
    assert moments[0] == moments[1]
    told = [line for line in lines(done.folder) if "loss" in line]
    assert [line["grad_norm"] == float("inf") for line in told] == [False, True, False, False]
    factor = done.run.rates.factor
    assert [line["learning_rate"] for line in told] == [1e-3 * factor(n) for n in (0, 1, 1, 2)]
    assert (done.run.state.global_step, done.run.updates) == (4, 3)
    assert done.run.ranks.loss_scale == 2.0**15


def test_a_scale_at_its_floor_stops_the_run(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 2**16 it is halved sixteen times; then the gradient itself is too large."""
    after_backward(monkeypatch, overflow)
    done = train(*tiny, *EACH_STEP, "precision=fp16", "training.max_steps=40", "checkpoint.save_steps=40")
    assert done.status == 3
    assert str(done.error).startswith(
        "step 17: gradient norm inf with a loss scale of 1 is not finite; no update was applied. Rows of this"
    )
    assert done.run.updates == 0


def test_a_loss_that_is_not_finite_stops_fp16_at_once(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CausalLM.__call__

    def poisoned(self: CausalLM, model: Any, batch: Any) -> Loss:
        return Loss(terms={"loss": original(self, model, batch).terms["loss"] * float("nan")})

    monkeypatch.setattr(CausalLM, "__call__", poisoned)
    done = train(*tiny, *EACH_STEP, "precision=fp16")
    assert done.status == 3
    assert str(done.error).startswith("step 1: micro-batch 1 loss=nan is not finite; no update was applied.")


def test_gradients_are_clipped_as_they_are_without_the_scale(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is a power of two: the logged norm does not depend on it."""
    norms = []
    for scale in (2.0**4, 2.0**12):
        scaler = partial(torch.amp.GradScaler, init_scale=scale)
        with monkeypatch.context() as patch:
            patch.setattr("trainer.ranks.ranks.torch.amp.GradScaler", scaler)
            done = train(*tiny, *EACH_STEP, "precision=fp16", f"output_dir=scale-{scale:g}")
        assert done.run.ranks.loss_scale == scale
        norms.append([line["grad_norm"] for line in lines(done.folder) if "loss" in line])
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


def test_the_scale_is_saved_and_restored() -> None:
    ranks = Ranks(use_cpu=True, autocast="fp16")
    ranks.load_scaler_state({**ranks.scaler_state(), "scale": 8.0, "_growth_tracker": 5})
    assert ranks.loss_scale == 8.0
    assert ranks.scaler_state()["_growth_tracker"] == 5
    assert ranks.may_skip
    exact = Ranks(use_cpu=True)
    exact.load_scaler_state({"scale": 8.0})
    assert (exact.scaler_state(), exact.loss_scale, exact.may_skip) == ({}, None, False)
