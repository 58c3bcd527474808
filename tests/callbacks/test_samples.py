"""Sampled replies at the end of a run and on the way, which leave no trace in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from callbacks import SamplesCallback
from tests.trainer.saved_runs import assert_same_checkpoint
from trainer.state import TrainerControl, TrainerState


def shown(done: Any) -> list[str]:
    return [line for line in done.out.splitlines() if line.startswith("> ")]


def test_every_prompt_is_answered_at_the_end(train: Any, tiny: Sequence[str]) -> None:
    words = [word for word in tiny if not word.startswith("callbacks.samples")]
    prompts = "callbacks.samples={prompts: [Hello, 'How are you?'], max_new_tokens: 5}"
    done = train(*words, prompts)
    assert done.status == 0, done.error
    assert shown(done) == ["> Hello", "> How are you?"]
    again = train(*words, prompts, "output_dir=again")
    assert (
        again.out.partition("\n> ")[2].partition("\n\n")[0]
        == done.out.partition("\n> ")[2].partition("\n\n")[0]
    )
    without = train(*words, "callbacks.samples=null", "output_dir=without")
    assert shown(without) == []
    assert (without.folder / "model.safetensors").read_bytes() == (
        done.folder / "model.safetensors"
    ).read_bytes()


def test_a_text_model_goes_on_with_a_text_and_torchs_generator_stays(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny)
    tokenizer, model = done.run.callbacks.given["processing_class"], done.run.model
    callback = SamplesCallback(prompts=("It was",), max_new_tokens=4)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = callback.reply("It was", model, tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    assert callback.reply("It was", model, tokenizer) == first
    likeliest = SamplesCallback(prompts=("It was",), max_new_tokens=4, temperature=0)
    assert likeliest.reply("It was", model, tokenizer) == likeliest.reply("It was", model, tokenizer)
    assert model.training, "it is given back as it was"


@pytest.mark.parametrize(
    ("prompts", "main", "step"), [((), True, 5), (("Hello",), False, 5), (("Hello",), True, 4)]
)
def test_nobody_is_asked_for_nothing(prompts: tuple[str, ...], main: bool, step: int, capsys: Any) -> None:
    state = TrainerState(max_steps=5, global_step=step, is_world_process_zero=main)
    callback = SamplesCallback(prompts=prompts)
    callback.on_train_end(None, state, TrainerControl(), model=None, processing_class=None)
    assert capsys.readouterr().out == ""


DRAWS = ("model.config.attention_dropout=0.1", "evaluation.eval_steps=1", "training.max_steps=3")
ASKS = "callbacks.samples={prompts: [Hello], max_new_tokens: 4, every_evaluation: true}"


def test_samples_on_the_way_change_nothing_of_the_training(train: Any, tiny: Sequence[str]) -> None:
    """With dropout, so that one number drawn from torch's generator would change all that follows."""
    done = train(*tiny, *DRAWS, ASKS)
    assert done.status == 0, done.error
    titles = [line for line in done.out.splitlines() if line.startswith("samples at step")]
    assert titles == ["samples at step 1", "samples at step 2", "samples at step 3"]
    assert shown(done) == ["> Hello"] * 4, "and at the end"
    assert done.run.model.training
    without = train(*tiny, *DRAWS, "output_dir=without")
    assert_same_checkpoint(done.folder / "checkpoint-3", without.folder / "checkpoint-3")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: at least 1 is wanted, 0 was given."),
        ({"temperature": -1.0}, "temperature: at least 0 is wanted, -1.0 was given."),
        ({"top_p": 0.0}, "top_p: more than 0 and at most 1 is wanted, 0.0 was given."),
    ],
)
def test_what_cannot_be_drawn_with_is_said_at_once(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        SamplesCallback(**options)
