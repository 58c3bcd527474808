"""Callbacks of a program, and what a training does to the configuration of its model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from callbacks.default_flow import DefaultFlowCallback
from callbacks.early_stopping import EarlyStoppingCallback
from callbacks.progress import ProgressCallback
from conf.errors import ConfigError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import (
    LLAMA,
    Classifier,
    arguments,
    points,
    tokens,
    trained,
)
from trainer import Trainer, TrainerCallback

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return points()


# -- callbacks ----------------------------------------------------------------------------------------


def test_callbacks_are_told_with_the_programs_objects(tmp_path: Path, rows: Rows) -> None:
    told: list[tuple[str, dict[str, Any]]] = []

    class Listening(TrainerCallback):
        pass

    for event in [name for name in vars(TrainerCallback) if name.startswith("on_")]:
        setattr(Listening, event, lambda self, a, s, c, event=event, **given: told.append((event, given)))
    processor = SimpleNamespace(name="processor")
    trainer = trained(
        tmp_path,
        rows=rows,
        callbacks=[Listening],
        processing_class=processor,
        max_steps=2,
        save_strategy="epoch",
        eval_strategy="epoch",
        eval_dataset=rows[:2],
        gradient_accumulation_steps=4,
    )
    step = [
        "on_step_begin",
        *["on_substep_end"] * 3,
        "on_pre_optimizer_step",
        "on_optimizer_step",
        "on_step_end",
    ]
    short = [event for event in step if event != "on_substep_end"]
    short[1:1] = ["on_substep_end"] * 2
    end = ["on_epoch_end", "on_log", "on_prediction_step", "on_log", "on_evaluate", "on_save"]
    assert [event for event, _ in told] == [
        "on_init_end",
        "on_train_begin",
        "on_epoch_begin",
        *step,
        "on_log",
        *short,
        *end,
        "on_log",
        "on_train_end",
    ]
    for event, given in told:
        assert given["model"] is trainer.model
        assert given["processing_class"] is processor
        if event not in ("on_init_end",):
            assert given["optimizer"] is trainer.optimizer
            assert len(given["lr_scheduler"].get_last_lr()) == 1


def test_callbacks_are_added_and_taken_out(tmp_path: Path, rows: Rows) -> None:
    class Counting(TrainerCallback):
        def __init__(self) -> None:
            self.count = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.count += 1

    first, second = Counting(), Counting()
    trainer = Trainer(
        model=Classifier(), args=arguments(tmp_path / "run"), train_dataset=rows, callbacks=[first]
    )
    trainer.add_callback(second)
    trainer.add_callback(Counting)
    third = trainer.callbacks[-1]
    assert trainer.pop_callback(Counting) is first
    assert trainer.pop_callback(third) is third
    assert trainer.pop_callback(third) is None
    assert isinstance(trainer.pop_callback(ProgressCallback), ProgressCallback)
    trainer.remove_callback(EarlyStoppingCallback)  # there is none
    trainer.train()
    assert (first.count, second.count) == (0, 4)
    trainer.remove_callback(second)
    trainer.args.output_dir = str(tmp_path / "again")
    trainer.train()
    assert second.count == 4
    with pytest.raises(ConfigError, match=r"^callbacks: without DefaultFlowCallback nothing would be logged"):
        trainer.remove_callback(DefaultFlowCallback)


def test_callbacks_of_the_reference_run(
    tmp_path: Path, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    class Printing(transformers.PrinterCallback):
        """It prints what is logged."""

    trainer = trained(
        tmp_path,
        rows=rows,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=rows[:4],
        learning_rate=0.0,
        callbacks=[Printing, transformers.EarlyStoppingCallback(early_stopping_patience=2)],
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    assert trainer.state.global_step == 3, "never better than the first, twice in a row"
    assert "'grad_norm'" in capsys.readouterr().out


def test_a_callback_stops_and_asks_for_what_is_not_due(tmp_path: Path, rows: Rows) -> None:
    class Asking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_evaluate = control.should_save = state.global_step == 2
            control.should_training_stop = state.global_step == 3
            return control

    trainer = trained(tmp_path, rows=rows, callbacks=[Asking()], eval_dataset=rows[:2])
    assert trainer.state.global_step == 3
    assert [line["step"] for line in trainer.state.log_history if "eval_loss" in line] == [2]
    assert (tmp_path / "checkpoint-2").is_dir()


# -- the model's configuration ------------------------------------------------------------------------


@pytest.fixture
def foreign() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, eos_token_id=2, bos_token_id=1))


def test_the_cache_is_off_while_training_and_in_no_saved_configuration(
    foreign: transformers.LlamaForCausalLM, tmp_path: Path
) -> None:
    seen: list[bool] = []

    class Watching(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            seen.append(model.config.use_cache)
            if state.global_step == 1:
                trainer.save_model(str(tmp_path / "meanwhile"))

    args = arguments(tmp_path / "run", save_strategy="steps", save_steps=2)
    trainer = Trainer(model=foreign, args=args, train_dataset=tokens(), callbacks=[Watching])
    assert foreign.config.use_cache is True
    trainer.train()
    assert seen == [False] * 4
    assert foreign.config.use_cache is True
    for folder in ("meanwhile", "run", "run/checkpoint-2", "run/checkpoint-4"):
        assert json.loads((tmp_path / folder / "config.json").read_text())["use_cache"] is True, folder
    with_cache = arguments(tmp_path / "cached", use_cache=True)
    Trainer(model=foreign, args=with_cache, train_dataset=tokens(), callbacks=[Watching]).train()
    assert seen[4:] == [True] * 4


@pytest.mark.parametrize("before", [2, [2, 5], None])
def test_the_tokenizers_special_tokens_are_written_into_the_model(
    before: Any, foreign: transformers.LlamaForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign.generation_config.eos_token_id = before
    tokenizer = SimpleNamespace(bos_token_id=1, eos_token_id=7, pad_token_id=0)
    with caplog.at_level(logging.WARNING, "stockpot"):
        trained(tmp_path, foreign, tokens(), processing_class=tokenizer, max_steps=1)
    assert foreign.config.eos_token_id == 7
    assert foreign.config.pad_token_id == foreign.generation_config.pad_token_id == 0
    listed = before if isinstance(before, list) else [before] if before else []
    assert foreign.generation_config.eos_token_id == [7, *listed]
    said = "the tokenizer's special tokens differ from the model's; its configuration now has eos_token_id=7"
    assert said in caplog.text
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [7, *listed]


def test_special_tokens_that_agree_are_left_alone(
    foreign: transformers.LlamaForCausalLM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign.config.pad_token_id = foreign.generation_config.pad_token_id = 0
    foreign.generation_config.eos_token_id = [9, 2]  # it stops at the tokenizer's already
    tokenizer = SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    trained(tmp_path, foreign, tokens(), processing_class=tokenizer, max_steps=1)
    assert foreign.generation_config.eos_token_id == [9, 2]
    assert "special tokens" not in caplog.text


def test_our_own_models_configuration_is_aligned_too(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    tokenizer = SimpleNamespace(bos_token_id=3, eos_token_id=7, pad_token_id=0)
    trained(tmp_path, model, tokens(), processing_class=tokenizer, max_steps=1)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (3, 7, 0)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 7
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved == {"bos_token_id": 3, "eos_token_id": 7, "pad_token_id": 0}
