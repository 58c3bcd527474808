"""The folder of the best model: whose it is, what it holds, and that it outlives a stop."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import BestModelCallback
from conf.errors import ConfigError
from models import AutoModelForCausalLM
from tests.trainer.saved_runs import digest
from tests.trainer.small_program import program
from trainer.evaluator import Evaluator
from trainer.manifest import Manifest, verify
from trainer.state import TrainerControl, TrainerState

KEEPS = ("training.max_steps=4", "evaluation.eval_steps=1", "callbacks.best_model={}")


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``evaluations(3, 1, ...)``: what one evaluation after the other comes to."""

    def come_to(*values: float) -> None:
        upcoming = iter(values)
        result = lambda self, model, after_batch=None: {"eval_loss": next(upcoming)}  # noqa: E731
        monkeypatch.setattr(Evaluator, "__call__", result)

    return come_to


def step_of(folder: Path) -> int:
    """The step of the model in ``best/``, every byte of which is as it was written."""
    return verify(folder / "best").about["step"]


def test_the_best_of_four_is_kept_and_loads(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *KEEPS, "checkpoint.save_steps=4")
    assert done.status == 0, done.error
    saved = sorted(path.name for path in done.folder.glob("checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2", "checkpoint-4"], "a new best is saved, due or not"
    assert step_of(done.folder) == 2
    assert Manifest.load(done.folder / "best").about["metric"] == 1.0
    best, checkpoint = done.folder / "best", done.folder / "checkpoint-2"
    assert (best / "model.safetensors").samefile(checkpoint / "model.safetensors"), "a hard link"
    assert digest(best / "model.safetensors") != digest(done.folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(best)
    assert model.num_parameters() == done.run.model.num_parameters()
    assert (best / "tokenizer.json").is_file()
    assert not (best / "training").exists()
    assert not (best / "trainer_state.json").exists()


def test_greater_may_be_better(train: Any, tiny: Sequence[str], evaluations: Callable[..., None]) -> None:
    evaluations(3.0, 1.0, 3.0, 2.0)
    done = train(*tiny, *KEEPS, "evaluation.greater_is_better=true")
    assert step_of(done.folder) == 1, "as good is not better"


def test_it_stays_when_its_checkpoint_goes(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *KEEPS)
    shutil.rmtree(done.folder / "checkpoint-2")
    assert step_of(done.folder) == 2


def test_what_is_evaluated_before_the_first_step_is_no_candidate(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(0.5, 3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *KEEPS, "evaluation.eval_on_start=true")
    assert done.status == 0, done.error
    assert step_of(done.folder) == 2


@pytest.mark.parametrize(
    ("later", "step"), [((4.0, 4.0), 2), ((0.5, 4.0), 3)], ids=["the best of before", "a better one"]
)
def test_a_resumed_run_knows_its_best(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None], later: Sequence[float], step: int
) -> None:
    often = ("checkpoint.save_steps=1", "checkpoint.save_total_limit=null")
    evaluations(3.0, 1.0, 2.0, 0.1)
    done = train(*tiny, *KEEPS, *often)
    assert step_of(done.folder) == 4
    shutil.move(done.folder / "checkpoint-4", done.folder / "elsewhere")
    shutil.move(done.folder / "checkpoint-3", done.folder / "later")
    evaluations(*later)
    resumed = train(*tiny, *KEEPS, *often, "output_dir=run", "resume=auto")
    assert resumed.status == 0, resumed.error
    assert step_of(resumed.folder) == step, "the one of step 4 is undone"


def begun_again(run: Path, **state: Any) -> None:
    args = SimpleNamespace(output_dir=str(run), eval_strategy="steps")
    BestModelCallback().on_train_begin(args, TrainerState(**state), TrainerControl())


def test_a_folder_lost_in_a_kill_is_made_again(
    train: Any, tiny: Sequence[str], evaluations: Callable[..., None]
) -> None:
    evaluations(3.0, 1.0, 2.0, 4.0)
    done = train(*tiny, *KEEPS)
    shutil.rmtree(done.folder / "best")
    state = {"best_metric": 1.0, "best_global_step": 2, "best_model_checkpoint": "checkpoint-2"}
    begun_again(done.folder, **state)
    assert step_of(done.folder) == 2
    begun_again(done.folder, **{**state, "is_world_process_zero": False, "best_global_step": 1})
    assert step_of(done.folder) == 2, "the main process writes"


def test_a_best_whose_checkpoint_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "stockpot"):
        begun_again(tmp_path, best_global_step=2, best_model_checkpoint="checkpoint-2")
    assert "is not of step 2, this run's best so far, whose checkpoint is gone" in caplog.text


def test_an_evaluation_outside_a_training_asks_for_nothing(tmp_path: Path) -> None:
    callback = BestModelCallback()
    parts = {"callbacks": [callback], "eval_dataset": program(tmp_path).train_dataset[:4]}
    made = program(tmp_path, parts=parts, eval_strategy="epoch")
    made.train()
    made.evaluate()
    assert not made.control.should_save or made.state.global_step == 3
    assert step_of(made.output_dir) == 3


def test_without_evaluations_there_is_no_best(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        program(tmp_path, parts={"callbacks": [BestModelCallback()]}).train()
    assert str(error.value) == (
        "callbacks: best_model goes by evaluation results, and there are none; set eval_strategy."
    )


def test_a_metric_that_no_set_has_is_an_error() -> None:
    args = SimpleNamespace(metric_for_best_model="accuracy", greater_is_better=True)
    with pytest.raises(ConfigError, match=r"best_model goes by 'eval_accuracy', and no evaluation gave it"):
        BestModelCallback().on_evaluate(args, TrainerState(), TrainerControl(), metrics={"eval_loss": 1.0})
