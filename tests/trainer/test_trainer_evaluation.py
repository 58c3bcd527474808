"""Evaluations and predictions of a program's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from conf.errors import ConfigError, DataError
from models import AutoModelForCausalLM
from models.llama.config import LlamaConfig
from tests.trainer.programs import (
    LLAMA,
    Classifier,
    SizedStream,
    Stream,
    arguments,
    losses,
    points,
    same,
    tokens,
    weights,
)
from trainer import EvalPrediction, PredictionOutput, Trainer, TrainerCallback

Rows = list[dict[str, Any]]
ROWS = points(7)


def evaluator(folder: Path, **given: Any) -> Trainer:
    """A trainer over ``ROWS`` in batches of 3; what is no argument is the constructor's."""
    names = (
        "model",
        "eval_dataset",
        "compute_metrics",
        "preprocess_logits_for_metrics",
        "callbacks",
        "data_collator",
    )
    objects = {"model": Classifier(), "eval_dataset": ROWS}
    objects |= {name: given.pop(name) for name in names if name in given}
    return Trainer(args=arguments(folder, per_device_eval_batch_size=3, **given), **objects)


def scores(rows: Rows, model: nn.Module | None = None) -> Tensor:
    with torch.no_grad():
        return (model or Classifier())(torch.stack([row["x"] for row in rows]))["logits"]


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the clock."""
    return {name: value for name, value in found.items() if not name.endswith(("_runtime", "_per_second"))}


# -- evaluate ----------------------------------------------------------------------------------------


def test_an_evaluation_gives_its_figures_and_tells_callbacks(tmp_path: Path) -> None:
    told: list[Any] = []

    class Listening(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told.append(kwargs["metrics"])

        def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told.append("step")

    trainer = evaluator(tmp_path, callbacks=[Listening])
    found = trainer.evaluate()
    labels = torch.tensor([row["labels"] for row in ROWS])
    assert found["eval_loss"] == pytest.approx(
        float(nn.functional.cross_entropy(scores(ROWS), labels)), rel=1e-6
    )
    assert found.keys() == {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    assert found["eval_steps_per_second"] / found["eval_samples_per_second"] == pytest.approx(3 / 7, rel=0.05)
    assert told == ["step"] * 3 + [found]
    assert trainer.state.log_history == [{"step": 0, "epoch": 0.0, **found}]
    assert trainer.evaluate(metric_key_prefix="own").keys() >= {"own_loss", "own_runtime"}
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_model_is_left_in_the_mode_it_was_in(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Watching(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            seen.append(self.training or torch.is_grad_enabled())
            return super().forward(x, labels)

    trainer = evaluator(tmp_path, model=Watching(dropout=0.5).train())
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]
    assert not any(seen)
    assert trainer.model.training


def test_several_data_sets_are_named(tmp_path: Path) -> None:
    both = {"a": ROWS[:4], "b": ROWS[4:]}
    trainer = evaluator(tmp_path, eval_dataset=both)
    found = trainer.evaluate()
    assert figures(found).keys() == {"eval_a_loss", "eval_b_loss"}
    assert trainer.evaluate("a")["eval_loss"] == found["eval_a_loss"]
    assert figures(trainer.evaluate(ROWS[4:])) == {"eval_loss": found["eval_b_loss"]}
    assert figures(trainer.evaluate({"c": ROWS[4:]})) == {"eval_c_loss": found["eval_b_loss"]}


def test_the_best_model_of_one_of_several_sets_is_loaded(tmp_path: Path) -> None:
    trainer = Trainer(
        model=Classifier(),
        args=arguments(
            tmp_path,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="steps",
            save_steps=1,
            learning_rate=0.5,
            load_best_model_at_end=True,
            metric_for_best_model="eval_b_loss",
        ),
        train_dataset=points(),
        eval_dataset={"a": ROWS[:4], "b": ROWS[4:]},
    )
    trainer.train()
    values = {
        line["step"]: line["eval_b_loss"] for line in trainer.state.log_history if "eval_b_loss" in line
    }
    best = min(values, key=values.__getitem__)
    assert best < 4, "the last must not be the best, or nothing is shown"
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (best, values[best])
    assert trainer.evaluate("b")["eval_loss"] == pytest.approx(values[best])
    assert json.loads((tmp_path / "all_results.json").read_text())["metric"] == values[best]


def test_a_metric_that_is_not_there_names_what_is(tmp_path: Path) -> None:
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model="accuracy")
    trainer = Trainer(model=Classifier(), args=args, train_dataset=points(), eval_dataset=ROWS)
    with pytest.raises(
        ConfigError, match=r"^metric_for_best_model: an evaluation gave no 'eval_accuracy'; .*eval_loss"
    ):
        trainer.train()


@pytest.mark.parametrize("dataset", [Stream(ROWS), SizedStream(ROWS)], ids=["iterable", "sized"])
def test_an_iterable_is_evaluated_once(dataset: Any, tmp_path: Path) -> None:
    found = evaluator(tmp_path, eval_dataset=dataset).evaluate()
    assert found["eval_loss"] == pytest.approx(evaluator(tmp_path).evaluate()["eval_loss"], rel=1e-6)


def test_without_labels_there_is_no_loss(tmp_path: Path) -> None:
    bare = [{"x": row["x"]} for row in ROWS]
    trainer = evaluator(tmp_path, compute_metrics=lambda seen: {"never": 1.0})
    assert figures(trainer.evaluate(bare)) == {}
    output = trainer.predict(bare)
    assert output.predictions == pytest.approx(scores(ROWS).numpy(), abs=1e-6)
    assert output.label_ids is None
    assert figures(output.metrics) == {}


def test_a_model_may_have_a_loss_without_labels(tmp_path: Path) -> None:
    class Contrasting(Classifier):
        def forward(self, x: Tensor, return_loss: bool = True) -> Any:  # type: ignore[override]
            logits = self.scores(self.hidden(x))
            return {"loss": logits.square().mean(), "logits": logits}

    found = evaluator(
        tmp_path, model=Contrasting(), eval_dataset=[{"x": row["x"]} for row in ROWS[:6]]
    ).evaluate()
    model = Contrasting()
    with torch.no_grad():
        expected = model(torch.stack([row["x"] for row in ROWS[:6]]))["loss"]
    assert found["eval_loss"] == pytest.approx(float(expected), rel=1e-6)


def test_an_evaluation_batch_without_labels_that_count_adds_nothing(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    rows = tokens(3)
    empty = [{**row, "labels": torch.full_like(row["labels"], -100)} for row in tokens(3, seed=1)]
    trainer = evaluator(tmp_path, model=model)
    assert trainer.evaluate([*rows, *empty])["eval_loss"] == trainer.evaluate(rows)["eval_loss"]
    assert np.isnan(trainer.evaluate(empty)["eval_loss"])


# -- compute_metrics ---------------------------------------------------------------------------------


def test_metrics_are_computed_from_everything_at_once(tmp_path: Path) -> None:
    seen: list[EvalPrediction] = []

    def accuracy(prediction: EvalPrediction) -> dict[str, Any]:
        seen.append(prediction)
        predictions, labels = prediction
        return {"accuracy": (predictions.argmax(-1) == labels).mean(), "eval_rows": torch.tensor(len(labels))}

    found = evaluator(tmp_path, compute_metrics=accuracy).evaluate()
    labels = np.array([row["labels"] for row in ROWS])
    assert found["eval_accuracy"] == (scores(ROWS).argmax(-1).numpy() == labels).mean()
    assert type(found["eval_accuracy"]) is float
    assert found["eval_rows"] == 7
    assert seen[0].predictions == pytest.approx(scores(ROWS).numpy(), abs=1e-6)
    assert seen[0].label_ids.tolist() == labels.tolist()
    assert seen[0].inputs is None
    assert seen[0].losses is None
    assert len(tuple(seen[0])) == 2


def test_inputs_and_losses_are_included(tmp_path: Path) -> None:
    seen: list[EvalPrediction] = []

    class Named(Classifier):
        main_input_name = "x"

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction)
        return {}

    trainer = evaluator(tmp_path, model=Named(), compute_metrics=keep, include_for_metrics=["inputs", "loss"])
    found = trainer.evaluate()
    assert seen[0].inputs.tolist() == torch.stack([row["x"] for row in ROWS]).tolist()
    assert seen[0].losses.shape == (7,)
    assert seen[0].losses.mean() == pytest.approx(found["eval_loss"], rel=1e-6)
    assert len(set(seen[0].losses.tolist())) == 3, "each row has its batch's"
    nameless = evaluator(tmp_path, compute_metrics=keep, include_for_metrics=["inputs"])
    with pytest.raises(
        ConfigError, match=r"^include_for_metrics: a batch has no 'input_ids', it has x, labels"
    ):
        nameless.evaluate()
    with pytest.raises(
        ConfigError, match=r"^include_for_metrics\[0\]: 'weights' is none of its values; known are"
    ):
        evaluator(tmp_path, compute_metrics=keep, include_for_metrics=["weights"])


def test_logits_are_made_smaller_before_they_are_kept(tmp_path: Path) -> None:
    def guess(logits: Tensor, labels: Tensor) -> Tensor:
        assert logits.shape == (len(labels), 3)
        return logits.argmax(-1)

    seen: list[Any] = []

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {}

    trainer = evaluator(tmp_path, compute_metrics=keep, preprocess_logits_for_metrics=guess)
    trainer.evaluate()
    assert seen[0].tolist() == scores(ROWS).argmax(-1).tolist()
    assert trainer.predict(ROWS).predictions.tolist() == seen[0].tolist()


def test_metrics_may_be_computed_batch_by_batch(tmp_path: Path) -> None:
    calls: list[tuple[int, bool]] = []

    def count(prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        assert isinstance(prediction.predictions, Tensor)
        calls.append((len(prediction.label_ids), compute_result))
        return {"rows": sum(rows for rows, _ in calls)}

    found = evaluator(tmp_path, compute_metrics=count, batch_eval_metrics=True).evaluate()
    assert calls == [(3, False), (3, False), (1, True)]
    assert found["eval_rows"] == 7


@pytest.mark.parametrize("steps", [None, 1, 2])
def test_predictions_may_move_to_the_host_now_and_then(steps: int | None, tmp_path: Path) -> None:
    output = evaluator(tmp_path, eval_accumulation_steps=steps).predict(ROWS)
    assert output.predictions == pytest.approx(scores(ROWS).numpy(), abs=1e-6)
    assert output.predictions.dtype == np.float32


def test_batches_may_be_kept_apart(tmp_path: Path) -> None:
    output = evaluator(tmp_path, eval_do_concat_batches=False).predict(ROWS)
    assert [len(batch) for batch in output.predictions] == [3, 3, 1]
    assert [len(batch) for batch in output.label_ids] == [3, 3, 1]


def test_objects_are_gathered_only_where_asked(tmp_path: Path) -> None:
    class Talking(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            out = super().forward(x, labels)
            return {**out, "texts": ["a"] * len(x)}

    rows = ROWS[:6]  # without gathering objects a list is a nesting, of one length in all batches
    output = evaluator(tmp_path, model=Talking(), eval_use_gather_object=True).predict(rows)
    assert output.predictions[1] == ["a"] * 6
    with pytest.raises(ConfigError, match=r"^eval_use_gather_object: the predictions or labels hold a str"):
        evaluator(tmp_path, model=Talking()).predict(rows)


# -- predict -----------------------------------------------------------------------------------------


def test_a_prediction_is_in_the_order_of_the_data(tmp_path: Path) -> None:
    told: list[Any] = []

    class Listening(TrainerCallback):
        def on_predict(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            told.append(kwargs["metrics"])

    output = evaluator(
        tmp_path, callbacks=[Listening], compute_metrics=lambda seen: {"rows": len(seen.label_ids)}
    ).predict(ROWS)
    assert isinstance(output, PredictionOutput)
    assert output.predictions == pytest.approx(scores(ROWS).numpy(), abs=1e-6)
    assert output.label_ids.tolist() == [row["labels"] for row in ROWS]
    assert output.metrics["test_rows"] == 7
    assert "test_loss" in output.metrics
    assert told == [output.metrics]
    named = evaluator(tmp_path).predict(ROWS, metric_key_prefix="own")
    assert "own_loss" in named.metrics
    only = evaluator(tmp_path, prediction_loss_only=True).predict(ROWS)
    assert only.predictions is None
    assert only.metrics["test_loss"] == output.metrics["test_loss"]


@pytest.mark.parametrize("whose", ["theirs", "ours"])
def test_predictions_of_different_lengths_are_padded(whose: str, tmp_path: Path) -> None:
    if whose == "theirs":
        model: Any = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    else:
        model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    rows = [*tokens(3, width=8), *tokens(3, seed=1, width=5)]
    output = evaluator(tmp_path, model=model).predict(rows)
    assert output.predictions.shape == (6, 8, 32)
    assert (output.predictions[3:, 5:] == -100).all()
    assert (output.predictions[:3] != -100).all()
    assert output.label_ids[3:, 5:].tolist() == [[-100] * 3] * 3
    with torch.no_grad():
        expected = model(input_ids=rows[0]["input_ids"][None]).logits[0]
    assert output.predictions[0] == pytest.approx(expected.numpy(), abs=1e-5)


def test_keys_may_be_ignored(tmp_path: Path) -> None:
    class Several(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            return {**super().forward(x, labels), "hidden": self.hidden(x)}

    trainer = evaluator(tmp_path, model=Several())
    both = trainer.predict(ROWS).predictions
    assert [part.shape for part in both] == [(7, 3), (7, 8)]
    assert trainer.predict(ROWS, ignore_keys=["hidden"]).predictions.shape == (7, 3)
    seen: list[Any] = []

    def keep(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {}

    trained = Trainer(
        model=Several(),
        args=arguments(tmp_path / "run", eval_strategy="steps", eval_steps=4),
        train_dataset=points(),
        eval_dataset=ROWS,
        compute_metrics=keep,
    )
    trained.train(ignore_keys_for_eval=["logits"])
    assert seen[0].shape == (7, 8)
    trained.evaluate(ignore_keys=["hidden"])
    assert seen[1].shape == (7, 3)


def test_several_columns_of_labels(tmp_path: Path) -> None:
    class Span(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor, start_positions: Tensor, end_positions: Tensor) -> tuple[Tensor, ...]:
            start, end = self.linear(x).unbind(-1)
            return (
                (start - start_positions).square().mean() + (end - end_positions).square().mean(),
                start,
                end,
            )

    rows = [{"x": row["x"], "start_positions": 1, "end_positions": 2} for row in ROWS]
    trainer = evaluator(tmp_path, model=Span(), eval_dataset=rows)
    assert trainer.label_names == ["start_positions", "end_positions"]
    output = trainer.predict(rows)
    assert [part.tolist() for part in output.label_ids] == [[1] * 7, [2] * 7]
    assert len(output.predictions) == 2
    named = evaluator(tmp_path, model=Span(), label_names=["end_positions"])
    assert named.predict(rows).label_ids.tolist() == [2] * 7


def test_labels_may_have_any_name(tmp_path: Path) -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
            guess = self.linear(x)[:, 0]
            return (guess - target).square().mean(), guess

    rows = [{"x": row["x"], "target": float(row["labels"])} for row in ROWS]
    model = Regression()
    silent = evaluator(tmp_path, model=model, eval_dataset=rows)
    assert figures(silent.evaluate()) == {}
    output = evaluator(tmp_path, model=model, label_names=["target"]).predict(rows)
    assert output.label_ids.tolist() == [row["target"] for row in rows]
    expected = np.square(output.predictions - output.label_ids).mean()
    assert output.metrics["test_loss"] == pytest.approx(expected, rel=1e-6)


def test_prediction_step_is_heard(tmp_path: Path) -> None:
    class Own(Trainer):
        def prediction_step(
            self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
        ) -> Any:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
            return loss * 0 + 2, logits, labels

    trainer = Own(model=Classifier(), args=arguments(tmp_path), eval_dataset=ROWS)
    assert trainer.evaluate()["eval_loss"] == 2.0
    own = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA), seed=0)
    assert Own(model=own, args=arguments(tmp_path), eval_dataset=tokens(3)).evaluate()["eval_loss"] == 2.0


def test_the_evaluation_loop_is_a_method_of_its_own(tmp_path: Path) -> None:
    trainer = evaluator(tmp_path)
    output = trainer.evaluation_loop(trainer.get_eval_dataloader(), "Looking", metric_key_prefix="own")
    assert output.num_samples == 7
    assert output.predictions.shape == (7, 3)
    assert output.metrics.keys() == {"own_loss"}


# -- half precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "dtype"), [("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)]
)
def test_a_stand_alone_evaluation_may_be_in_half_precision(
    option: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    seen: list[torch.dtype] = []

    class Watching(Classifier):
        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            seen.append(self.scores.weight.dtype)
            return super().forward(x.to(self.scores.weight.dtype), labels)

    model = Watching()
    model.register_buffer("count", torch.arange(3))
    before = weights(model)
    parameter = model.scores.weight
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, eval_strategy="steps", eval_steps=4, learning_rate=0.0, **{option: True}),
        train_dataset=points(),
        eval_dataset=ROWS,
    )
    half = trainer.evaluate()
    assert trainer.predict(ROWS).predictions.dtype == (np.float32 if dtype == torch.bfloat16 else np.float16)
    assert set(seen) == {dtype}
    assert model.scores.weight is parameter
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert half["eval_loss"] == pytest.approx(evaluator(tmp_path / "full").evaluate()["eval_loss"], rel=0.02)
    seen.clear()
    trainer.train()
    assert set(seen) == {torch.float32}, "inside a training it stays as it is"
    with pytest.raises(DataError, match=r"^data_collator: the column 'x' cannot be stacked"):
        trainer.evaluate([*ROWS, {"x": torch.zeros(5), "labels": 0}])
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_half_precision_keeps_tied_weights_tied(tmp_path: Path) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True))
    before = weights(model)
    evaluator(tmp_path, model=model, eval_dataset=tokens(3), bf16_full_eval=True).evaluate()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_both_half_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bf16_full_eval"):
        evaluator(tmp_path, bf16_full_eval=True, fp16_full_eval=True)


# -- evaluations in a training -----------------------------------------------------------------------


def test_an_evaluation_changes_nothing_of_the_training(tmp_path: Path) -> None:
    outcomes = []
    for name, strategy in (("without", "no"), ("with", "steps")):
        more = {} if strategy == "no" else {"eval_steps": 1, "eval_on_start": True}
        trainer = Trainer(
            model=Classifier(dropout=0.3),
            args=arguments(tmp_path / name, eval_strategy=strategy, **more),
            train_dataset=points(),
            eval_dataset=ROWS,
        )
        trainer.train()
        outcomes.append(trainer)
    assert losses(outcomes[0]) == losses(outcomes[1])
    assert same(outcomes[0].model, outcomes[1].model)
    evaluated = [line["step"] for line in outcomes[1].state.log_history if "eval_loss" in line]
    assert evaluated == [0, 1, 2, 3, 4]


def test_memory_is_measured_by_stages(tmp_path: Path) -> None:
    trainer = Trainer(
        model=Classifier(),
        args=arguments(tmp_path, skip_memory_metrics=False, eval_strategy="steps", eval_steps=4),
        train_dataset=points(),
        eval_dataset=ROWS,
    )
    metrics = trainer.train().metrics
    assert {"init_mem_cpu_alloc_delta", "train_mem_cpu_peaked_delta", "before_init_mem_cpu"} <= metrics.keys()
    assert not any("mem" in name for line in trainer.state.log_history for name in line)
    assert "eval_mem_cpu_alloc_delta" in trainer.evaluate()
    assert "test_mem_cpu_alloc_delta" in trainer.predict(ROWS).metrics
