"""What the options of evaluations and checkpoints change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import trainer.predictions
from conf.errors import ConfigError
from tests.trainer.small_program import (
    files,
    lines,
    program,
    rows,
    steps,
    tagger,
    trained,
)
from trainer.state import TrainerCallback

ROOT = Path(__file__).parents[2]
EVALUATED = {"eval_dataset": rows(6, seed=1)}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, []),
        ({"eval_strategy": "epoch", "num_train_epochs": 2}, [3, 6]),
        ({"eval_strategy": "steps"}, [1, 2, 3]),
        ({"eval_strategy": "steps", "eval_steps": 2}, [2, 3]),
        ({"eval_strategy": "steps", "eval_steps": 0.5}, [2, 3]),
        ({"eval_strategy": "steps", "eval_delay": 2}, [2, 3]),
        ({"eval_strategy": "epoch", "num_train_epochs": 3, "eval_delay": 2}, [6, 9]),
        ({"eval_on_start": True}, [0]),
    ],
    ids=str,
)
def test_when_it_is_evaluated(given: dict[str, Any], wanted: list[int], tmp_path: Path) -> None:
    assert steps(trained(tmp_path, parts=EVALUATED, **given), "eval_loss") == wanted


def test_rows_of_an_evaluation_batch(tmp_path: Path) -> None:
    for size, wanted in ((8, [6]), (4, [4, 2])):
        seen: list[int] = []
        model = tagger(watch=lambda ids, logits: seen.append(len(ids)))  # noqa: B023
        program(tmp_path, parts={**EVALUATED, "model": model}, per_device_eval_batch_size=size).evaluate()
        assert seen == wanted


def scores(values: list[float]) -> Any:
    """A ``compute_metrics`` that gives these, one after the other."""
    left = iter(values)
    return lambda seen: {"score": next(left)}


@pytest.mark.parametrize(
    ("given", "best"),
    [
        ({"metric_for_best_model": "score"}, 2),
        ({"metric_for_best_model": "eval_score"}, 2),
        ({"metric_for_best_model": "score", "greater_is_better": False}, 3),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, 1),
        ({"metric_for_best_model": "loss"}, 3),
        ({}, 3),
    ],
    ids=str,
)
def test_which_evaluation_is_the_best(given: dict[str, Any], best: int, tmp_path: Path) -> None:
    """The loss falls; the score is best after the second step and worst after the third."""
    parts = {"eval_dataset": rows(), "compute_metrics": scores([0.5, 0.9, 0.1])}
    given = {"learning_rate": 0.1, "eval_strategy": "steps", **given}
    made = trained(tmp_path, parts=parts, **given)
    losses = lines(made, "eval_loss")
    assert losses == sorted(losses, reverse=True)
    assert made.state.best_global_step == best


def test_predictions_leave_the_device_every_few_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    original = trainer.predictions.Collected._move_to_host

    def noting(self: Any) -> None:
        moved.append(len(self))
        original(self)

    monkeypatch.setattr(trainer.predictions.Collected, "_move_to_host", noting)
    for count, wanted in ((None, [3]), (2, [2, 3])):
        moved.clear()
        given = {"eval_accumulation_steps": count, "per_device_eval_batch_size": 2}
        program(tmp_path, **given).predict(EVALUATED["eval_dataset"])
        assert moved == wanted


def test_only_the_loss_is_predicted(tmp_path: Path) -> None:
    for only in (False, True):
        output = program(tmp_path, prediction_loss_only=only).predict(rows(4))
        assert (output.predictions is None) == only
        assert "test_loss" in output.metrics


@pytest.mark.parametrize(
    ("given", "has_inputs", "has_losses", "kind"),
    [
        ({}, False, False, "ndarray"),
        ({"include_for_metrics": ["inputs"]}, True, False, "ndarray"),
        ({"include_for_metrics": ["loss"]}, False, True, "ndarray"),
        ({"eval_do_concat_batches": False, "per_device_eval_batch_size": 4}, False, False, "list"),
    ],
    ids=str,
)
def test_what_compute_metrics_is_given(
    given: dict[str, Any], has_inputs: bool, has_losses: bool, kind: str, tmp_path: Path
) -> None:
    seen: list[Any] = []
    parts = {**EVALUATED, "compute_metrics": lambda told: seen.append(told) or {}}
    program(tmp_path, parts=parts, **given).evaluate()
    (told,) = seen
    assert ((told.inputs is not None), (told.losses is not None)) == (has_inputs, has_losses)
    assert type(told.predictions).__name__ == kind
    assert [len(part) for part in told.predictions] == ([4, 2] if kind == "list" else [4] * 6)


def test_metrics_batch_by_batch(tmp_path: Path) -> None:
    calls: list[tuple[int, bool]] = []

    def batchwise(told: Any, compute_result: bool = False) -> dict[str, float]:
        calls.append((len(told.label_ids), compute_result))
        return {"calls": len(calls)}

    given = {"batch_eval_metrics": True, "per_device_eval_batch_size": 4}
    made = program(tmp_path, parts={**EVALUATED, "compute_metrics": batchwise}, **given)
    assert made.evaluate()["eval_calls"] == 2
    assert calls == [(4, False), (2, True)]
    calls.clear()
    parts = {**EVALUATED, "compute_metrics": batchwise}
    assert program(tmp_path, parts=parts, per_device_eval_batch_size=4).evaluate()["eval_calls"] == 1


def test_predictions_that_are_no_tensors(tmp_path: Path) -> None:
    def in_words(logits: torch.Tensor, labels: torch.Tensor) -> list[str]:
        return [f"row {ids[0]}" for ids in labels.tolist()]

    data, parts = rows(3), {"preprocess_logits_for_metrics": in_words}
    given = {"per_device_eval_batch_size": 2, "parts": parts}
    output = program(tmp_path, eval_use_gather_object=True, **given).predict(data)
    assert output.predictions == [f"row {row['labels'][0]}" for row in data]
    with pytest.raises(ConfigError, match=r"^eval_use_gather_object: the predictions or labels hold a str"):
        program(tmp_path, **given).predict(data)


# -- checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "steps"}, [6]),
        ({"save_strategy": "epoch"}, [3, 6]),
        ({"save_strategy": "best", "eval_strategy": "steps", "metric_for_best_model": "score"}, [1, 2]),
        ({"save_steps": 2}, [2, 4, 6]),
        ({"save_steps": 0.4}, [3, 6]),
        ({"save_steps": 2, "save_total_limit": 1}, [6]),
    ],
    ids=str,
)
def test_when_it_is_saved(given: dict[str, Any], wanted: list[int], tmp_path: Path) -> None:
    parts = {"eval_dataset": rows(), "compute_metrics": scores([0.5, 0.9, 0.1, 0.1, 0.1, 0.1])}
    made = trained(tmp_path, parts=parts, num_train_epochs=2, **given)
    found = [name for name in files(made.output_dir) if name.startswith("checkpoint-")]
    assert sorted(found) == [f"checkpoint-{step}" for step in wanted]


PROGRAM = """
    import os, signal, sys
    from pathlib import Path
    from tests.trainer.small_program import listening, trained
    def end(state):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    callback = listening(on_step_end=end)
    trained(
        Path.cwd(), output_dir="run", max_steps=9, save_steps=500, parts={"callbacks": [callback]},
        enable_jit_checkpoint=sys.argv[1] == "True",
    )
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_a_signal_ends_at_once_unless_it_is_to_save(enabled: bool, tmp_path: Path) -> None:
    """enable_jit_checkpoint decides; the default would save."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(enabled)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    saved = {name for name in files(tmp_path / "run") if name.startswith("checkpoint-")}
    if enabled:
        assert "StoppedError: stopped by a signal at step 3" in done.stderr, "the step under way is finished"
        assert saved == {"checkpoint-3"}
    else:
        assert done.returncode == -signal.SIGTERM, done.stderr
        assert saved == set()


def test_a_checkpoint_of_the_model_only(tmp_path: Path) -> None:
    for only in (False, True):
        made = trained(tmp_path, save_steps=3, save_only_model=only)
        checkpoint = made.output_dir / "checkpoint-3"
        assert (checkpoint / "model.safetensors").is_file()
        assert (checkpoint / "training/optimizer.safetensors").is_file() != only
        assert (checkpoint / "training/state.json").is_file() != only


class Counter(TrainerCallback):
    """Counts steps, and says what it had counted at the beginning."""

    def __init__(self) -> None:
        self.count, self.begun = 0, -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.begun = self.count

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.count += 1

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"count": self.count}}


def resumed(tmp_path: Path, step: int, **given: Any) -> Any:
    """A training of two epochs that goes on from a step, with all that is to be watched."""
    whole = trained(tmp_path, num_train_epochs=2, save_steps=1, parts={"callbacks": [Counter()]})
    order: list[list[int]] = []
    parts = {
        "callbacks": [Counter()],
        "model": tagger(watch=lambda ids, logits: order.append(ids[:, 0].tolist())),
    }
    made = program(
        tmp_path,
        parts=parts,
        output_dir=str(whole.output_dir),
        num_train_epochs=2,
        save_steps=1,
        **given,
    )
    made.train(resume_from_checkpoint=str(whole.output_dir / f"checkpoint-{step}"))
    return made, order


def test_callbacks_start_afresh(tmp_path: Path, capsys: Any) -> None:
    for restore, begun in ((True, 2), (False, 0)):
        made, _ = resumed(tmp_path, 2, restore_callback_states_from_checkpoint=restore)
        (counter,) = (callback for callback in made.callbacks if isinstance(callback, Counter))
        assert counter.begun == begun
    capsys.readouterr()
    trained(tmp_path, restore_callback_states_from_checkpoint=False, max_steps=1)
    said = "restore_callback_states_from_checkpoint: it has no effect on a run that starts afresh."
    assert said in capsys.readouterr().err


def test_data_is_not_skipped(tmp_path: Path, capsys: Any) -> None:
    """From the middle of an epoch: with its rest, or with all of it once more."""
    _, plain = resumed(tmp_path, 5)
    _, again = resumed(tmp_path, 5, ignore_data_skip=True)
    _, epoch = resumed(tmp_path, 3)
    assert len(plain) == len(again) == 1, "one step is left"
    assert plain[0] == epoch[2]
    assert again[0] == epoch[0]
    capsys.readouterr()
    trained(tmp_path, ignore_data_skip=True, max_steps=1)
    assert "ignore_data_skip: it has no effect on a run that starts afresh." in capsys.readouterr().err


def test_a_recipe_is_told_what_only_a_resumed_run_uses(train: Any, tiny: tuple[str, ...]) -> None:
    words = ("output_dir=run", "resume=auto", "checkpoint.ignore_data_skip=true")
    said = "checkpoint.ignore_data_skip: it has no effect on a run that starts afresh."
    first = train(*tiny, *words)
    assert first.status == 0, first.error
    assert said in first.out
    assert said not in train(*tiny, *words).out, "now it goes on"


def test_it_ends_with_the_best_model(tmp_path: Path) -> None:
    for load, step in ((False, 3), (True, 2)):
        parts = {"eval_dataset": rows(), "compute_metrics": scores([0.5, 0.9, 0.1])}
        made = trained(
            tmp_path,
            parts=parts,
            load_best_model_at_end=load,
            metric_for_best_model="score",
            eval_strategy="steps",
            save_strategy="steps",
            save_steps=1,
        )
        wanted = load_file(made.output_dir / f"checkpoint-{step}/model.safetensors")
        assert torch.equal(made.model.words.weight, wanted["words.weight"])
        final = load_file(made.output_dir / "model.safetensors")
        assert torch.equal(final["words.weight"], wanted["words.weight"])
        assert json.loads((made.output_dir / "all_results.json").read_text())["global_step"] == 3
