"""Every option that touches training resumes bit for bit: weights, optimizer, generators, state and lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.trainer.faults import after_backward, overflow, run_out_of_memory
from tests.trainer.saved_runs import SHORT, digest, lines
from trainer.cli import run_command

SIX_STEPS = ("training.max_steps=6", "logging.logging_steps=2", "evaluation.eval_steps=3")
STEPS = (*SIX_STEPS, "checkpoint.save_steps=3")
BEST = (*SIX_STEPS, "checkpoint.save_strategy=best")
PADDED = ("data.packing=false",)
# Two epochs of three steps, the last of each short.
EPOCHS = (
    "data.train.chat.weight=0.011",
    "~training.max_steps",
    "training.num_train_epochs=2",
    "logging.logging_strategy=epoch",
    "evaluation.eval_strategy=epoch",
    "checkpoint.save_strategy=epoch",
)
# What changes the training, and must be seen to do so.
CHANGING = {
    "label smoothing": ("training.label_smoothing_factor=0.1",),
    "NEFTune": ("training.neftune_noise_alpha=5",),
    "NEFTune, padded": (*PADDED, "training.neftune_noise_alpha=5"),
    "bf16": ("precision=bf16",),
    "fp16": ("precision=fp16",),
    "no dropout": ("model.config.attention_dropout=0",),
    "no clipping": ("training.max_grad_norm=0",),
    "SGD": ("optimizer=sgd",),
    "accumulation": ("training.gradient_accumulation_steps=2",),
    "padded": PADDED,
    "grouped by length": (*PADDED, "data.group_by_length=true"),
    "streaming": ("data.streaming=true",),
    "streaming, padded": ("data.streaming=true", *PADDED),
    "data seed": ("training.data_seed=7",),
}
# What changes how it is computed, loaded or told, and nothing of its result.
NEUTRAL = {
    "plain": (),
    "gradient checkpointing": ("training.gradient_checkpointing=true",),
    "reentrant gradient checkpointing": (
        "training.gradient_checkpointing=true",
        "training.gradient_checkpointing_kwargs={use_reentrant: true}",
    ),
    "rank averages": ("training.average_tokens_across_devices=false",),
    "workers": ("data.dataloader_num_workers=1",),
    "persistent workers": ("data.dataloader_num_workers=1", "data.dataloader_persistent_workers=true"),
    "tokens seen": ("logging.include_num_input_tokens_seen=all",),
    "best at end": ("checkpoint.load_best_model_at_end=true",),
    "determinism": ("training.full_determinism=true",),
    "metrics": ("metrics.accuracy={}", "metrics.perplexity={}"),
    "searching the batch size": ("training.auto_find_batch_size=true",),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny: Sequence[str]) -> str:
    """The weights that come of no option at all."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run_command([*tiny, *SHORT, *STEPS, f"output_dir={folder}"])
    return digest(folder / "model.safetensors")


@pytest.mark.parametrize("words", CHANGING.values(), ids=CHANGING)
def test_an_option_that_changes_the_training_resumes(
    resumes: Callable[..., Any], plain: str, words: Sequence[str]
) -> None:
    resumed = resumes(*STEPS, *words)
    assert digest(resumed.folder / "model.safetensors") != plain


@pytest.mark.parametrize("words", NEUTRAL.values(), ids=NEUTRAL)
def test_an_option_that_changes_nothing_of_the_result_resumes(
    resumes: Callable[..., Any], plain: str, words: Sequence[str]
) -> None:
    resumed = resumes(*STEPS, *words)
    assert digest(resumed.folder / "model.safetensors") == plain


def test_a_compiled_model_resumes(resumes: Callable[..., Any]) -> None:
    resumes(*STEPS, "training.torch_compile_backend=aot_eager")


def test_epochs_resume(resumes: Callable[..., Any]) -> None:
    resumed = resumes(*EPOCHS, *PADDED)
    assert resumed.run.batches.steps_per_epoch == 3
    assert [line["step"] for line in lines(resumed.folder)] == [3, 3, 6, 6, 6], "loss, evaluation; summary"


def test_saving_the_best_resumes(resumes: Callable[..., Any]) -> None:
    resumed = resumes(*BEST)
    assert resumed.run.state.best_global_step == 6


# -- what happens before the stop -------------------------------------------------------------------------


def test_an_overflow_before_the_stop_is_remembered(
    resumes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    after_backward(monkeypatch, overflow, {2})
    resumed = resumes(*STEPS, "precision=fp16")
    saved = json.loads((resumed.folder / "checkpoint-3/training/state.json").read_text())
    assert saved["scaler"]["scale"] == 2.0**15, "half of what it began with"
    assert saved["scaler"]["_growth_tracker"] == 1
    assert saved["updates"] == 2
    assert resumed.run.updates == 5
    last = [line for line in lines(resumed.folder) if "loss" in line][-1]
    assert last["learning_rate"] == resumed.run.rates.factor(4) * 1e-3, "the schedule counts updates"


@pytest.mark.parametrize("words", [(), PADDED], ids=["packed", "padded"])
def test_a_size_found_before_the_stop_is_kept(
    resumes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: Sequence[str]
) -> None:
    after_backward(monkeypatch, run_out_of_memory, {2})
    resumed = resumes(*STEPS, *words, "training.auto_find_batch_size=true")
    assert resumed.run.state.train_batch_size == 2
    assert "memory ran out" not in resumed.out, "it is not searched again"
    assert len(next(resumed.run.batches)) == 2


def test_callbacks_go_on_waiting_or_are_told_to_forget(train: Any, tiny: Sequence[str]) -> None:
    never_better = ("optimizer.learning_rate=0", "training.max_steps=9")
    often = ("evaluation.eval_steps=1", "checkpoint.save_steps=1", "checkpoint.save_total_limit=null")
    whole = train(*tiny, *never_better, *often, "callbacks.early_stopping={early_stopping_patience: 3}")
    assert whole.results["global_step"] == 4
    restored = train("resume=run/checkpoint-3")
    assert restored.results["global_step"] == 4
    forgot = train("resume=run/checkpoint-3", "checkpoint.restore_callback_states_from_checkpoint=false")
    assert forgot.results["global_step"] == 6


def test_data_may_be_taken_from_the_start_of_the_epoch_again(train: Any, tiny: Sequence[str]) -> None:
    seen: dict[int, list[str]] = {}
    whole = train(*tiny, *SHORT, *STEPS)
    batches = whole.run.batches
    for step in range(6):
        seen[step] = batches.places(step)
    resumed = train("resume=run/checkpoint-3", "checkpoint.ignore_data_skip=true")
    assert resumed.status == 0, resumed.error
    assert resumed.run.state.global_step == 6
    assert resumed.run.batches.step == 3, "steps 4 to 6 saw the rows of steps 1 to 3"
    assert resumed.run.batches.places() == seen[2]
    assert resumed.run.state.epoch == pytest.approx(3 / batches.steps_per_epoch)


@pytest.mark.parametrize("resume", ["resume=run/checkpoint-3", "resume=auto"])
def test_a_model_alone_is_no_state_to_resume(train: Any, tiny: Sequence[str], resume: str) -> None:
    words = (*tiny, *SHORT, *STEPS, "checkpoint.save_only_model=true")
    done = train(*words)
    assert not (done.folder / "checkpoint-3/training/state.json").exists()
    again = train(*words, resume, "output_dir=run")
    assert again.status == 4
    assert re.fullmatch(
        r"run/checkpoint-[36]: it was written with save_only_model and holds no state to resume; start a new "
        r"run from its weights with model\.path=run/checkpoint-[36]\.",
        str(again.error),
    )
