"""With every callback that looks on, a training is the same training, and so is a resumed one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.trainer.saved_runs import SHORT, assert_same_checkpoint, digest, lines

LOOKS_ON = (
    "callbacks.best_model={}",
    "callbacks.early_stopping={early_stopping_patience: 9}",
    "callbacks.memory={}",
    "callbacks.printer={}",
    "callbacks.profiler={active: 1}",
    "callbacks.samples={prompts: [Hello], max_new_tokens: 3, every_evaluation: true}",
    "callbacks.statistics={every: 2, activations: [backbone.layers.*]}",
    "callbacks.throughput={}",
    "callbacks.underflow_overflow={}",
)
STEPS = (
    "training.max_steps=6",
    "checkpoint.save_steps=3",
    "evaluation.eval_steps=3",
    "logging.logging_steps=2",
)
ADDED = ("/", "_mem_", "_per_second", "_utilization")  # what names of values that callbacks add have in them


def test_they_change_nothing_and_go_on_exactly(train: Any, tiny: Sequence[str]) -> None:
    whole = train(*tiny, *SHORT, *STEPS, *LOOKS_ON)
    assert whole.status == 0, whole.error
    model, told = digest(whole.folder / "model.safetensors"), lines(whole.folder)
    without = train(*tiny, *SHORT, *STEPS, "output_dir=without")
    assert digest(without.folder / "model.safetensors") == model
    plain = [{name: line[name] for name in line if not any(map(name.__contains__, ADDED))} for line in told]
    assert plain == lines(without.folder)
    assert plain != told, "figures of gradients are no matter of the clock"
    resumed = train("resume=run/checkpoint-3", "output_dir=run")
    assert resumed.status == 0, resumed.error
    assert_same_checkpoint(whole.folder / "checkpoint-6", whole.folder / "set-aside-checkpoint-6-1")
    assert digest(whole.folder / "model.safetensors") == model
    assert lines(whole.folder) == told
