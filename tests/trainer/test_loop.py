"""The loop: what it tells callbacks and when, what stops it, and what an evaluation is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from models import AutoModelForCausalLM
from models.weights import checkpoint_names
from tests.trainer.saved_runs import untimed

PLUGIN = """
from dataclasses import dataclass
from trainer.state import EVENTS, TrainerCallback

SEEN = []
OPTIONAL = {"on_log": "logs", "on_evaluate": "metrics"}

@dataclass(kw_only=True)
class Witness(TrainerCallback):
    pass

def noting(event):
    def note(self, args, state, control, **given):
        SEEN.append((event, state.global_step, sorted(given)))
        assert args.max_steps == state.max_steps
        assert (OPTIONAL.get(event) is None) or given[OPTIONAL[event]]
        assert given["optimizer"].param_groups[0]["lr"] >= 0
        assert given["lr_scheduler"].get_last_lr()[0] == given["optimizer"].param_groups[0]["lr"]
        assert next(given["model"].parameters()).requires_grad
        assert given["eval_dataloader"].keys() == {"chat"}
        assert given["train_dataloader"].step >= state.global_step
        assert len(given["processing_class"]) == 512
    return note

for event in EVENTS:
    setattr(Witness, event, noting(event))

CATALOG = {"callbacks": {"witness": "witness_plugin:Witness"}}
"""
ALWAYS = [
    "eval_dataloader",
    "lr_scheduler",
    "model",
    "optimizer",
    "plan",
    "processing_class",
    "train_dataloader",
]


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[[str, str], str]:
    """``plugin(name, text)``: the word that loads a plug-in of this text."""

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return f"plugins={tmp_path / name}.py"

    return write


ONE_BY_ONE = (
    "data.packing=false",
    "training.per_device_train_batch_size=2",
    "training.gradient_accumulation_steps=2",
    "logging.logging_steps=1",
    "evaluation.eval_steps=1",
    "checkpoint.save_steps=1",
    "callbacks.progress=null",
)


def test_what_callbacks_are_told_and_with_what(train: Any, tiny: Sequence[str], plugin: Any) -> None:
    import sys

    words = (*ONE_BY_ONE, plugin("witness_plugin", PLUGIN), "callbacks.witness={}")
    done = train(*tiny, *words)
    assert done.status == 0, done.error
    seen = sys.modules["witness_plugin"].SEEN
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    acts = ["on_log", "on_prediction_step", "on_log", "on_evaluate", "on_save"]
    ours = _in_short(name for name, _, _ in seen)
    end = ["on_log", "on_train_end"]  # the summary
    begin = ["on_init_end", "on_train_begin", "on_epoch_begin"]
    assert ours == [*begin, *step, *acts, *step, "on_epoch_end", *acts, *end]
    for name, _, given in seen:
        extra = {"on_log": ["logs"], "on_evaluate": ["metrics"]}.get(name, [])
        assert given == sorted([*ALWAYS, *extra])
    assert [at for name, at, _ in seen if name == "on_step_begin"] == [0, 1]
    assert [at for name, at, _ in seen if name == "on_step_end"] == [1, 2]
    before_the_end = len([*begin, *step, *acts, *step])
    assert ours[:before_the_end] == _told_by_the_reference()[:before_the_end], "the same in the same order"


def _told_by_the_reference() -> list[str]:
    """The events of transformers' own trainer, two steps of two micro-batches, everything at each step."""
    import transformers

    seen: list[str] = []

    class Witness(transformers.TrainerCallback):
        pass

    def noting(event: str) -> Any:
        return lambda self, args, state, control, **given: seen.append(event)

    for event in [name for name in dir(transformers.TrainerCallback) if name.startswith("on_")]:
        setattr(Witness, event, noting(event))
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    rows = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 8
    arguments = transformers.TrainingArguments(
        output_dir="reference",
        use_cpu=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        disable_tqdm=True,
        report_to="none",
    )
    model = transformers.LlamaForCausalLM(config)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[Witness()]
    )
    trainer.train()
    return _in_short(seen)


def _in_short(events: Iterable[str]) -> list[str]:
    """The events, those of one evaluation's batches as one."""
    grouped = ((name, len(list(same))) for name, same in groupby(events))
    return [name for name, count in grouped for _ in range(1 if name == "on_prediction_step" else count)]


# -- callbacks of the reference, unchanged -----------------------------------------------------------

THEIRS = """
from dataclasses import dataclass
import transformers

@dataclass(frozen=True, kw_only=True)
class Options:
    which: str
    patience: int = 2

def build(options):
    if options.which == "early_stopping":
        return transformers.EarlyStoppingCallback(early_stopping_patience=options.patience)
    return getattr(transformers, options.which)()

CATALOG = {"callbacks": {"theirs": ("theirs_plugin:Options", "theirs_plugin:build")}}
"""
NEVER_BETTER = (
    *(
        "optimizer.learning_rate=0",
        "training.max_steps=9",
        "evaluation.eval_steps=1",
        "checkpoint.save_steps=1",
    ),
    "checkpoint.save_total_limit=null",
)


def test_the_references_early_stopping_runs_here_unchanged(
    train: Any, tiny: Sequence[str], plugin: Any
) -> None:
    words = (*NEVER_BETTER, plugin("theirs_plugin", THEIRS), "callbacks.theirs={which: early_stopping}")
    done = train(*tiny, *words)
    assert done.status == 0, done.error
    assert done.results["global_step"] == 3, "the first evaluation is the best, and two are not better"


@pytest.mark.parametrize("which", ["ProgressCallback", "PrinterCallback"])
def test_others_of_the_reference_run_here_unchanged(
    train: Any, tiny: Sequence[str], plugin: Any, which: str
) -> None:
    words = (
        plugin("theirs_plugin", THEIRS),
        f"callbacks.theirs={{which: {which}}}",
        "callbacks.progress=null",
    )
    done = train(*tiny, *words, "logging.logging_steps=1")
    assert done.status == 0, done.error
    assert "'loss'" in done.out


# -- early stopping ------------------------------------------------------------------------------------


def test_early_stopping_waits_as_long_as_it_was_told_and_over_a_resume(
    train: Any, tiny: Sequence[str]
) -> None:
    words = (*NEVER_BETTER, "callbacks.early_stopping={early_stopping_patience: 3}")
    whole = train(*tiny, *words)
    assert whole.results["global_step"] == 4
    state = json.loads((whole.folder / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["EarlyStoppingCallback"] == {
        "args": {"early_stopping_patience": 3, "early_stopping_threshold": 0.0},
        "attributes": {"early_stopping_patience_counter": 2},
    }
    assert (state["best_global_step"], state["best_model_checkpoint"]) == (1, "checkpoint-1")
    resumed = train("resume=run/checkpoint-3")
    assert resumed.status == 0, resumed.error
    assert resumed.results["global_step"] == 4, "it does not wait anew"
    assert [line["step"] for line in resumed.metrics if "eval_loss" in line] == [1, 2, 3, 4]


def test_a_stopped_run_ends_with_a_checkpoint_of_its_last_step(train: Any, tiny: Sequence[str]) -> None:
    words = (
        *NEVER_BETTER[:-2],
        "checkpoint.save_steps=500",
        "callbacks.early_stopping={early_stopping_patience: 1}",
    )
    done = train(*tiny, *words)
    assert done.results["global_step"] == 2
    assert [path.name for path in done.folder.glob("checkpoint-*")] == ["checkpoint-2"]


# -- evaluation ----------------------------------------------------------------------------------------


def test_an_evaluation_is_the_sum_over_all_documents_divided_once(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, "optimizer.learning_rate=1e-2")
    model = AutoModelForCausalLM.from_pretrained(done.folder)
    rows = done.run.evaluator.sets["chat"]._collated.rows
    assert rows.packed is not None, "here one document at a time, there packed"
    (source,) = rows.sources
    total, count = 0.0, 0
    with torch.no_grad():
        for index in range(len(source)):
            document = source.document(index)
            ids = torch.from_numpy(document["input_ids"].astype("int64"))
            mask = torch.from_numpy(document["loss_mask"].astype("bool"))[1:]
            logits = model({"input_ids": ids[None]}).logits[0, :-1]
            total += F.cross_entropy(logits[mask], ids[1:][mask], reduction="sum").item()
            count += int(mask.sum())
    assert count > 1000
    assert done.results["eval_loss"] == pytest.approx(total / count, rel=1e-5)


def test_several_sets_are_weighed_by_their_tokens(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    rows = (
        (Path(__file__).parents[2] / "recipes/data/chat/validation.jsonl")
        .read_text()
        .splitlines(keepends=True)
    )
    (tmp_path / "short.jsonl").write_text("".join(rows[:3]))
    (tmp_path / "long.jsonl").write_text("".join(rows[3:30]))
    sets = "{short: {path: short.jsonl, format: chat}, long: {path: long.jsonl, format: chat}}"
    best = "evaluation.metric_for_best_model=short_loss"
    done = train(*tiny, "~data.validation.chat", f"data.validation={sets}", best)
    assert done.status == 0, done.error
    (line,) = (line for line in done.metrics if "eval_loss" in line)
    assert untimed(line).keys() == {"step", "epoch", "eval_loss", "eval_short_loss", "eval_long_loss"}
    low, high = sorted((line["eval_short_loss"], line["eval_long_loss"]))
    assert low < line["eval_loss"] < high
    assert abs(line["eval_long_loss"] - line["eval_loss"]) < abs(line["eval_short_loss"] - line["eval_loss"])
    assert done.results["metric_name"] == "eval_short_loss"
    assert done.results["metric"] == line["eval_short_loss"]


def test_a_metric_that_nothing_computes_is_an_error_before_anything_is_written(
    train: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    done = train(*tiny, "evaluation.metric_for_best_model=accuracy")
    assert done.status == 2
    assert str(done.error) == "evaluation.metric_for_best_model: there is no 'accuracy'; known are loss."
    assert not done.folder.exists()


def test_the_model_is_in_training_mode_before_and_after_an_evaluation(
    train: Any, tiny: Sequence[str]
) -> None:
    words = ("evaluation.eval_on_start=true", "evaluation.eval_steps=1", "optimizer.learning_rate=0")
    done = train(*tiny, *words)
    assert done.run.model.training
    losses = {line["step"]: line["eval_loss"] for line in done.metrics if "eval_loss" in line}
    assert losses.keys() == {0, 1, 2}
    assert len(set(losses.values())) == 1
    assert done.run.state.best_global_step == 1, "what is evaluated before the first step is no candidate"


# -- what is not finite --------------------------------------------------------------------------------


def _parameters(run: Any) -> dict[str, torch.Tensor]:
    names = checkpoint_names(run.model)
    return {names[name]: parameter.detach() for name, parameter in run.model.named_parameters()}


def _is_checkpoint(run: Any, folder: Path) -> bool:
    """Whether the weights in memory are those of the checkpoint, bit for bit."""
    saved, now = load_file(folder / "model.safetensors"), _parameters(run)
    return saved.keys() == now.keys() and all(torch.equal(saved[name], now[name]) for name in saved)


EXPLODING = ("optimizer=sgd", "training.max_grad_norm=0", "checkpoint.save_steps=1", "training.max_steps=9")
ROWS = r"Rows of this step: (\S+chat/train\.jsonl:\d+(, )?)+\."


@pytest.fixture
def poison(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]], None]:
    """``poison(f)``: from the second micro-batch on the loss is ``f(loss, a parameter)``."""
    from trainer.objectives.causal_lm import CausalLM
    from trainer.objectives.objective import Loss

    original, calls = CausalLM.__call__, []

    def with_poison(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        def poisoned(self: Any, model: Any, batch: Any) -> Loss:
            loss = original(self, model, batch)
            calls.append(1)
            if len(calls) < 2:
                return loss
            return Loss(terms={"loss": change(loss.terms["loss"], next(model.parameters()))})

        monkeypatch.setattr(CausalLM, "__call__", poisoned)

    return with_poison


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_before_the_update(
    train: Any, tiny: Sequence[str], poison: Any, value: str
) -> None:
    poison(lambda loss, parameter: loss * float(value))
    done = train(*tiny, "checkpoint.save_steps=1", "training.max_steps=9", "evaluation.eval_steps=9")
    assert done.status == 3
    assert re.fullmatch(
        rf"step 2: micro-batch 1 loss={value} is not finite; no update was applied\. {ROWS} "
        r"Last good checkpoint: run/checkpoint-1\.",
        str(done.error),
    )
    assert _is_checkpoint(done.run, done.folder / "checkpoint-1")
    assert not (done.folder / "checkpoint-2").exists()
    assert not (done.folder / "all_results.json").exists()
    named = re.findall(r"train\.jsonl:(\d+)", str(done.error))
    assert sorted(named) == sorted({place.rpartition(":")[2] for place in done.run.batches.places()})
    assert done.run.state.global_step == 1


def test_a_gradient_that_is_not_finite_stops_though_the_loss_is(
    train: Any, tiny: Sequence[str], poison: Any
) -> None:
    poison(
        lambda loss, parameter: loss + 0 * torch.sqrt(0 * parameter.sum())
    )  # adds 0, with an infinite slope
    done = train(*tiny, "checkpoint.save_steps=1", "training.max_steps=9", "evaluation.eval_steps=9")
    assert done.status == 3, done.error
    text = rf"step 2: gradient norm nan is not finite; no update was applied\. {ROWS} Last good .*-1\."
    assert re.fullmatch(text, str(done.error))
    assert _is_checkpoint(done.run, done.folder / "checkpoint-1")
    assert math.isfinite(done.run.window.mean_loss)


def test_without_a_checkpoint_it_says_so(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, *EXPLODING, "optimizer.learning_rate=1e30", "checkpoint.save_steps=500")
    assert done.status == 3
    assert str(done.error).endswith("Last good checkpoint: none was written yet.")


def test_a_run_that_exploded_goes_on_from_its_last_good_checkpoint(train: Any, tiny: Sequence[str]) -> None:
    done = train(*tiny, *EXPLODING, "optimizer.learning_rate=1e30")
    last = re.search(r"run/checkpoint-(\d+)\.$", str(done.error))
    assert last is not None
    again = train(
        f"resume={last[0][:-1]}", "optimizer.learning_rate=0", f"training.max_steps={int(last[1]) + 1}"
    )
    assert again.status in (0, 3), again.error
    assert f"going on from {last[0][:-1]}" in again.out
    assert "optimizer.learning_rate is now 0.0; it was 1e+30." in again.out
