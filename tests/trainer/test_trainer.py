"""A program's training from its first to its last step: modules and data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.errors import ConfigError, DataError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import (
    LLAMA,
    Classifier,
    CountingClassifier,
    SizedStream,
    Stream,
    arguments,
    distance,
    losses,
    points,
    same,
    tokens,
    trained,
    weights,
)
from trainer import Trainer, TrainOutput

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return points()


# -- what is trained ----------------------------------------------------------------------------------


def test_a_training_gives_its_figures_and_leaves_a_run_folder(tmp_path: Path, rows: Rows) -> None:
    model = Classifier()
    trainer = Trainer(
        model=model, args=arguments(tmp_path / "run", save_strategy="steps"), train_dataset=rows
    )
    output = trainer.train()
    assert isinstance(output, TrainOutput)
    assert output.global_step == 4
    assert output.training_loss == pytest.approx(sum(losses(trainer)) / 4)
    names = {
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "total_flos",
        "train_loss",
    }
    assert output.metrics.keys() == {*names, "epoch"}
    assert output.metrics["train_runtime"] == trainer.state.log_history[-1]["train_runtime"]
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "README.md",
        "all_results.json",
        "checkpoint-4",
        "config.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "plan.yaml",
        "train_results.json",
    }
    results = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert results["train_loss"] == output.training_loss
    assert results["metric_name"] == "train_loss"
    assert trainer.model is model
    assert not trainer.is_in_train


@pytest.mark.parametrize("form", ["dict", "tuple", "tensor"])
def test_a_module_may_return_its_loss_in_any_form(form: str, tmp_path: Path) -> None:
    trainer = trained(tmp_path / "run", Classifier(form))
    usual = trained(tmp_path / "usual", Classifier("dict"))
    assert losses(trainer) == losses(usual)
    assert same(trainer.model, usual.model)
    assert trainer.model_accepts_loss_kwargs is False


def test_a_module_that_counts_does_not_depend_on_the_split(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", CountingClassifier(), per_device_train_batch_size=6)
    parts = trained(
        tmp_path / "parts", CountingClassifier(), per_device_train_batch_size=1, gradient_accumulation_steps=6
    )
    assert whole.model_accepts_loss_kwargs is True
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)
    assert distance(weights(whole.model), weights(parts.model)) < 1e-6


def test_a_module_that_does_not_count_gives_means_that_are_averaged(tmp_path: Path) -> None:
    """A step of 5 rows as 2 + 2 + 1: the last row counts twice as much as each of the others."""
    rows, model = points(5), Classifier()
    trained(
        tmp_path,
        model,
        rows,
        max_steps=1,
        gradient_accumulation_steps=3,
        optim="sgd",
        learning_rate=1.0,
        max_grad_norm=0,
        lr_scheduler_type="constant",
        data_seed=0,
    )
    order = _order(rows, tmp_path)
    expected = Classifier()
    batches = [order[:2], order[2:4], order[4:]]
    means = [
        expected(torch.stack([r["x"] for r in b]), torch.tensor([r["labels"] for r in b]))["loss"]
        for b in batches
    ]
    torch.stack(means).mean().backward()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter -= parameter.grad
    assert distance(weights(expected), weights(model)) < 1e-6


def _order(rows: Rows, folder: Path) -> Rows:
    """The rows of the first epoch in the order of the training."""
    args = arguments(folder, per_device_train_batch_size=len(rows), data_seed=0)
    (batch,) = Trainer(model=Classifier(), args=args, train_dataset=rows).get_train_dataloader()
    places = [next(i for i, row in enumerate(rows) if torch.equal(row["x"], x)) for x in batch["x"]]
    assert sorted(places) == list(range(len(rows)))
    return [rows[place] for place in places]


def test_our_own_models_train_through_their_objective(tmp_path: Path) -> None:
    """No logits are made: the loss is the chunked one of the head."""

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("all scores were computed")

    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    model.head.forward = forbidden
    trainer = trained(tmp_path, model, tokens(), eval_strategy="steps", eval_steps=2, eval_dataset=tokens(3))
    assert len(losses(trainer)) == 4
    assert [line["step"] for line in trainer.state.log_history if "eval_loss" in line] == [2, 4]


# -- data ---------------------------------------------------------------------------------------------


def test_an_iterable_of_known_length_is_trained_on_for_epochs(tmp_path: Path, rows: Rows) -> None:
    trainer = trained(tmp_path, rows=SizedStream(rows), num_train_epochs=2)
    assert trainer.state.global_step == 2 * 7
    assert trainer.state.epoch == 2.0


def test_an_iterable_of_unknown_length_needs_max_steps(tmp_path: Path, rows: Rows) -> None:
    assert trained(tmp_path / "run", rows=Stream(rows), max_steps=9).state.global_step == 9
    with pytest.raises(ConfigError, match=r"^max_steps: the training data has no known length; say how many"):
        trained(tmp_path / "other", rows=Stream(rows), num_train_epochs=1)


def test_a_training_without_data_says_so(tmp_path: Path) -> None:
    trainer = Trainer(model=Classifier(), args=arguments(tmp_path))
    for ask in (trainer.train, trainer.get_train_dataloader):
        with pytest.raises(
            ConfigError, match=r"^train_dataset: a training needs one; give it to the Trainer"
        ):
            ask()


def test_columns_that_the_model_does_not_take_are_removed(tmp_path: Path, rows: Rows) -> None:
    more = [{**row, "text": "a", "weight": 2.0} for row in rows]
    usual = trained(tmp_path / "usual", rows=rows)
    assert losses(trained(tmp_path / "map", rows=more)) == losses(usual)
    assert len(losses(trained(tmp_path / "iterable", rows=Stream(more)))) == 4
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'weight'"):
        trained(tmp_path / "kept", rows=more, remove_unused_columns=False)
    with pytest.raises(
        ConfigError, match=r"^remove_unused_columns: none of the columns \(y\) is an argument"
    ):
        trained(tmp_path / "none", rows=[{"y": 1}])


def test_a_collator_sees_the_kept_columns_or_all(tmp_path: Path, rows: Rows) -> None:
    seen: list[set[str]] = []

    def collate(rows: Rows) -> dict[str, Any]:
        seen.append(set(rows[0]))
        return {
            "x": torch.stack([row["x"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    more = [{**row, "text": "a"} for row in rows]
    trained(tmp_path / "kept", rows=more, data_collator=collate, max_steps=1)
    trained(tmp_path / "all", rows=more, data_collator=collate, max_steps=1, remove_unused_columns=False)
    assert seen[0] == {"x", "labels"}
    assert seen[-1] == {"x", "labels", "text"}


def test_rows_that_cannot_be_stacked_name_the_column(tmp_path: Path) -> None:
    ragged = [{"x": torch.zeros(2 + i), "labels": 0} for i in range(4)]
    with pytest.raises(DataError, match=r"^data_collator: the column 'x' cannot be stacked .*; give a data_"):
        trained(tmp_path, rows=ragged)


def test_group_by_length_puts_rows_of_similar_length_together(tmp_path: Path) -> None:
    rows = [{"input_ids": list(range(1, n + 3)), "labels": list(range(1, n + 3))} for n in range(24)] * 2
    widths: list[int] = []

    def collate(rows: Rows) -> dict[str, Any]:
        lengths = [len(row["input_ids"]) for row in rows]
        widths.append(max(lengths) - min(lengths))
        wide = max(lengths)
        filled = {name: [[*r[name], *[fill] * (wide - len(r[name]))] for r in rows] for name, fill in fillers}
        return {name: torch.tensor(value) for name, value in filled.items()}

    fillers = (("input_ids", 0), ("labels", -100))
    for grouped in (True, False):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
        trained(
            tmp_path / str(grouped),
            model,
            rows,
            data_collator=collate,
            group_by_length=grouped,
            num_train_epochs=1,
        )
    assert len(widths) == 48
    assert sum(widths[:24]) < sum(widths[24:]) / 2
    with pytest.raises(
        ConfigError, match=r"^group_by_length: the lengths of an iterable data set are not known"
    ):
        trained(tmp_path / "stream", rows=Stream(rows), group_by_length=True)
