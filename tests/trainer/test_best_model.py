"""Which evaluation was the best, that it is saved and kept, and that a run ends with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tests.trainer.saved_runs import digest
from trainer.evaluator import Evaluator
from trainer.retention import checkpoints

EACH_STEP = (
    "training.max_steps=4",
    "evaluation.eval_steps=1",
    "checkpoint.save_steps=1",
    "checkpoint.save_total_limit=null",
    "logging.logging_steps=1",
    "callbacks.progress=null",
)
ENDS_WITH_BEST = (*EACH_STEP, "checkpoint.load_best_model_at_end=true")


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``evaluations(*metrics)``: what the evaluations of a run give, one after the other.

    A number is an ``eval_loss``; something to call is called, for what it does then, and gives one.
    """

    def given(*values: Any) -> None:
        left = list(values)

        def look(self: Evaluator, model: Any, after_batch: Any = None) -> Mapping[str, float]:
            value = left.pop(0)
            value = value() if callable(value) else value
            return value if isinstance(value, dict) else {"eval_loss": value}

        monkeypatch.setattr(Evaluator, "__call__", look)

    return given


def steps(done: Any) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints(done.folder)]


def ends_with(done: Any, step: int) -> bool:
    """Whether the final model is that of a checkpoint, in the run folder and in memory."""
    saved = digest(done.folder / f"checkpoint-{step}/model.safetensors")
    found = {s: digest(done.folder / f"checkpoint-{s}/model.safetensors") for s in steps(done)}
    assert len(set(found.values())) == len(found), "each step has other weights"
    return digest(done.folder / "model.safetensors") == saved


def test_a_run_ends_with_the_best_of_its_models(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, {"eval_loss": 1.0, "eval_accuracy": 0.9}, {"eval_loss": 2.0, "eval_accuracy": 0.1}, 1.0)
    done = train(*tiny, *ENDS_WITH_BEST)
    assert done.status == 0, done.error
    assert ends_with(done, 2), "as good is not better"
    state = done.run.state
    assert (state.best_metric, state.best_global_step, state.best_model_checkpoint) == (
        1.0,
        2,
        "checkpoint-2",
    )
    results = done.results
    assert (results["metric_name"], results["metric"], results["greater_is_better"]) == (
        "eval_loss",
        1.0,
        False,
    )
    assert (results["eval_loss"], results["eval_accuracy"]) == (1.0, 0.9), "all of that evaluation"
    assert results["global_step"] == 4


def test_without_being_asked_it_ends_with_the_last(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *EACH_STEP)
    assert ends_with(done, 4)
    assert done.results["metric"] == 4.0
    assert done.run.state.best_global_step == 2


@pytest.mark.parametrize("asked", [(), ("evaluation.greater_is_better=true",)], ids=["by its name", "given"])
def test_greater_is_better_unless_it_is_a_loss(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None], asked: Sequence[str]
) -> None:
    evaluations(*({"eval_loss": 1 - value, "eval_accuracy": value} for value in (0.1, 0.3, 0.2, 0.0)))
    words = ("metrics.accuracy={}", "evaluation.metric_for_best_model=accuracy", *asked)
    done = train(*tiny, *ENDS_WITH_BEST, *words)
    assert done.status == 0, done.error
    assert ends_with(done, 2)
    assert (done.results["metric_name"], done.results["metric"]) == ("eval_accuracy", 0.3)


def test_a_limit_of_one_keeps_the_best_beside_the_newest(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *ENDS_WITH_BEST, "checkpoint.save_total_limit=1")
    assert steps(done) == [2, 4]
    assert ends_with(done, 2)


def test_saving_only_what_is_best(train: Any, tiny: Sequence[str], evaluations: Callable[..., None]) -> None:
    evaluations(3.0, 1.0, 2.0, 1.5)
    words = [word for word in ENDS_WITH_BEST if not word.startswith("checkpoint.save_steps")]
    done = train(*tiny, *words, "checkpoint.save_strategy=best")
    assert done.status == 0, done.error
    assert steps(done) == [1, 2]
    assert ends_with(done, 2)


def test_the_best_is_saved_though_no_save_is_due(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    """Evaluated each step and saved each second: without its checkpoint there is nothing to end with."""
    evaluations(1.0, 2.0, 3.0, 4.0)
    done = train(*tiny, *ENDS_WITH_BEST, "checkpoint.save_steps=2")
    assert steps(done) == [1, 2, 4]
    assert ends_with(done, 1)
    assert done.results["metric"] == 1.0


def test_a_damaged_best_checkpoint_is_said_when_everything_is_saved(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None], tmp_path: Any
) -> None:
    def damage() -> float:
        weights = tmp_path / "run/checkpoint-1/model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        return 4.0

    evaluations(1.0, 2.0, 3.0, damage)
    done = train(*tiny, *ENDS_WITH_BEST)
    assert done.status == 4
    assert str(done.error) == (
        "run/checkpoint-1/model.safetensors is damaged: its content does not fit the manifest's sha256."
    )
    assert steps(done) == [1, 2, 3, 4]
    again = train("resume=run/checkpoint-4", "checkpoint.load_best_model_at_end=false")
    assert again.status == 0, again.error


def test_an_evaluation_without_the_metric_says_what_there_is(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations({"eval_other": 1.0, "eval_accuracy": 0.5, "eval_runtime": 1.0})
    done = train(*tiny, *ENDS_WITH_BEST)
    assert done.status == 2
    assert str(done.error) == (
        "evaluation.metric_for_best_model: an evaluation gave no 'eval_loss'; choose of "
        "eval_other, eval_accuracy."
    )


def test_what_is_evaluated_before_the_first_step_is_no_candidate(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(0.5, 3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *ENDS_WITH_BEST, "evaluation.eval_on_start=true")
    assert done.metrics[0]["eval_loss"] == 0.5
    assert ends_with(done, 2)


WITNESS = """
from dataclasses import dataclass
from trainer.state import TrainerCallback
SEEN = []
CATALOG = {"callbacks": {"witness": "best_witness:Witness"}}
@dataclass(kw_only=True)
class Witness(TrainerCallback):
    def on_evaluate(self, args, state, control, **kwargs):
        SEEN.append((kwargs["metrics"]["eval_loss"], state.best_metric))
"""


def test_callbacks_see_an_evaluation_before_it_counts(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None], tmp_path: Any
) -> None:
    import sys

    (tmp_path / "best_witness.py").write_text(WITNESS)
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *EACH_STEP, f"plugins={tmp_path}/best_witness.py", "callbacks.witness={}")
    assert done.status == 0, done.error
    assert sys.modules["best_witness"].SEEN == [(3.0, None), (1.0, 3.0), (2.0, 1.0), (4.0, 1.0)]
