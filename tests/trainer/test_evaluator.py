"""Evaluation: the loss by its weight, streaming metrics, predictions, several sets, one process or two."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from conf.errors import ConfigError, DataError
from models.weights import named_checkpoint_tensors
from tests.trainer import evaluation as material
from trainer.evaluator import ComputeMetrics, Evaluator, num_rows
from trainer.objectives.causal_lm import CausalLM
from trainer.objectives.objective import Prediction
from trainer.objectives.options import CausalLMOptions
from trainer.ranks.ranks import Ranks

SCRIPT = Path(material.__file__)
ROWS = material.documents(11)


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return Ranks(use_cpu=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return material.model()


def looked(ranks: Ranks, model: Any, **options: Any) -> dict[str, Any]:
    return Evaluator(material.OBJECTIVE, ranks, {"set": material.RankBatches(rows=ROWS)}, **options)(model)


def mean_loss(model: Any, rows: Any = ROWS) -> tuple[float, int]:
    """By torch alone: the mean over supervised tokens, one document at a time, and how many there are."""
    total, count = 0.0, 0
    with torch.no_grad():
        for document in rows:
            ids = torch.from_numpy(document["input_ids"])
            scores = model(ids[None]).logits[0, :-1].double().log_softmax(-1)
            losses = -scores.gather(1, ids[1:, None])[:, 0]
            chosen = torch.from_numpy(document["loss_mask"])[1:].bool()
            total, count = total + losses[chosen].sum().item(), count + int(chosen.sum())
    return total / count, count


class Outputs(nn.Module):
    """A model whose scores are its input; remembers how many of its outputs were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[weakref.ref[Tensor]] = set()
        self.most = 0

    def forward(self, scores: Tensor) -> Tensor:
        made = scores * 1.0
        self.alive.add(weakref.ref(made, self.alive.discard))
        self.most = max(self.most, len(self.alive))
        return made


class Classes:
    """A method that classifies rows; ``asked`` remembers whether only the loss was wanted."""

    def __init__(self) -> None:
        self.asked: list[bool] = []

    def predict(
        self, model: nn.Module, batch: Mapping[str, Tensor], *, loss_only: bool = False
    ) -> Prediction:
        self.asked.append(loss_only)
        logits, labels = model(batch["scores"]), batch.get("labels")
        if labels is None:
            return Prediction(terms={}, weights={}, logits=logits)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        terms, weights = {"loss": loss}, {"loss": len(labels)}
        if loss_only:
            return Prediction(terms=terms, weights=weights)
        losses = (loss / len(labels)).repeat(len(labels))
        return Prediction(terms=terms, weights=weights, logits=logits, labels=labels, losses=losses)


class Scores:
    """Batches of scores, made as they are asked for; ``labelled=False`` leaves the labels out."""

    def __init__(self, count: int, rows: int = 4, *, labelled: bool = True, seed: int = 0):
        self.count, self.rows, self.labelled, self.seed = count, rows, labelled, seed

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        random = torch.Generator().manual_seed(self.seed)
        for _ in range(self.count):
            batch = {"scores": torch.randn(self.rows, 5, generator=random)}
            if self.labelled:
                batch["labels"] = torch.randint(0, 5, (self.rows,), generator=random)
            yield batch


def accuracy(seen: Any) -> dict[str, Any]:
    return {"right": np.mean(seen.predictions.argmax(-1) == seen.label_ids)}


# -- one process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("per_device", [1, 3, 11])
def test_the_loss_is_the_mean_over_tokens(ranks: Ranks, model: Any, packed: bool, per_device: int) -> None:
    expected, tokens = mean_loss(model)
    batches = material.RankBatches(rows=ROWS, per_device=per_device, packed=packed)
    evaluator = Evaluator(material.OBJECTIVE, ranks, {"set": batches}, metrics=material.metrics())
    found = evaluator(model)
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["eval_perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert found["eval_accuracy"] * tokens == pytest.approx(round(found["eval_accuracy"] * tokens), abs=1e-6)
    assert list(found)[-3:] == ["eval_runtime", "eval_samples_per_second", "eval_steps_per_second"]
    assert evaluator.loop(model, batches).num_samples == 11


def test_all_ways_of_looking_agree(ranks: Ranks, model: Any) -> None:
    """The loss alone, with logits, with everything kept: the same number; and the figures of both doors."""
    cheap = looked(ranks, model)
    streamed = looked(ranks, model, metrics=material.metrics())

    def function(seen: Any) -> dict[str, Any]:
        guesses, labels = seen.predictions[:, :-1].argmax(-1), seen.label_ids[:, 1:]
        return {"right": np.mean((guesses == labels)[labels != -100])}

    whole = looked(ranks, model, compute=ComputeMetrics(function=function))
    assert cheap["eval_loss"] == streamed["eval_loss"] == whole["eval_loss"]
    assert whole["eval_right"] == pytest.approx(streamed["eval_accuracy"], rel=1e-12)


def test_only_the_loss_is_computed_where_nothing_else_is_wanted(ranks: Ranks) -> None:
    accuracy_metric, perplexity = material.metrics()
    wanted = {
        "nothing": ({}, None, True),
        "perplexity": ({"metrics": [perplexity]}, None, True),
        "accuracy": ({"metrics": [accuracy_metric]}, None, False),
        "a function": ({"compute": ComputeMetrics(function=accuracy)}, None, False),
        "a function, loss only": ({"compute": ComputeMetrics(function=accuracy)}, False, True),
        "predictions": ({}, True, False),
    }
    for name, (options, keep, loss_only) in wanted.items():
        objective: Any = Classes()
        out = Evaluator(objective, ranks, {}, **options).loop(Outputs(), Scores(3), keep=keep)
        assert objective.asked == [loss_only] * 3, name
        assert (out.predictions is None) == (name not in ("a function", "predictions")), name
        assert ("eval_right" in out.metrics) == (name == "a function"), name


def test_several_sets_are_measured_together_and_each(ranks: Ranks) -> None:
    sets = {"first": Scores(3, 4), "second": Scores(1, 7, seed=1)}
    metrics = material.metrics()[:1]
    objective: Any = Classes()
    found = Evaluator(objective, ranks, sets, metrics=metrics, compute=ComputeMetrics(function=accuracy))(
        Outputs()
    )
    timing = ["eval_runtime", "eval_samples_per_second", "eval_steps_per_second"]
    each = [f"eval_{name}_{what}" for name in sets for what in ("loss", "accuracy", "right")]
    assert list(found) == ["eval_loss", "eval_accuracy", *each, *timing]
    for what in ("loss", "accuracy"):
        parts = found[f"eval_first_{what}"] * 12 + found[f"eval_second_{what}"] * 7
        assert found[f"eval_{what}"] == pytest.approx(parts / 19, rel=1e-6)
    assert found["eval_first_right"] == pytest.approx(found["eval_first_accuracy"])


def test_another_split_has_its_own_prefix(ranks: Ranks) -> None:
    objective: Any = Classes()
    evaluator = Evaluator(objective, ranks, {"set": Scores(2)}, metrics=material.metrics(), prefix="test")
    names = ["test_loss", "test_accuracy", "test_perplexity"]
    timing = ["test_runtime", "test_samples_per_second", "test_steps_per_second"]
    assert list(evaluator(Outputs())) == [*names, *timing]
    assert list(evaluator.loop(Outputs(), Scores(2)).metrics) == names
    assert "eval_loss" in evaluator.loop(Outputs(), Scores(2), prefix="eval").metrics


def test_predictions_without_labels(ranks: Ranks) -> None:
    objective: Any = Classes()
    compute = ComputeMetrics(function=accuracy, preprocess_logits=lambda logits, labels: logits.argmax(-1))
    evaluator = Evaluator(objective, ranks, {}, metrics=material.metrics()[:1], compute=compute)
    batches = Scores(3, labelled=False)
    out = evaluator.loop(Outputs(), batches, prefix="test", keep=True)
    expected = torch.cat([batch["scores"] for batch in batches]).argmax(-1)
    assert out.predictions.tolist() == expected.tolist()
    assert (out.label_ids, out.metrics, out.num_samples) == (None, {}, 12)


def test_the_function_sees_inputs_and_losses_on_demand(ranks: Ranks) -> None:
    seen: list[Any] = []

    def function(given: Any) -> dict[str, Any]:
        seen.append(given)
        return {"eval_tensor": torch.tensor(2.0), "numpy": np.float32(0.5), "many": np.array([1, 2])}

    def preprocess(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        assert len(logits) == len(labels)
        return logits[:, :2], labels

    compute = ComputeMetrics(
        function=function,
        preprocess_logits=preprocess,
        include=("inputs", "loss"),
        main_input_name="scores",
        accumulation_steps=2,
    )
    objective: Any = Classes()
    out = Evaluator(objective, ranks, {}, compute=compute).loop(Outputs(), Scores(3))
    batches = list(Scores(3))
    scores = torch.cat([batch["scores"] for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    (given,) = seen
    np.testing.assert_array_equal(given.predictions[0], scores[:, :2])
    np.testing.assert_array_equal(given.predictions[1], labels)
    np.testing.assert_array_equal(given.inputs, scores)
    means = [nn.functional.cross_entropy(batch["scores"], batch["labels"]).item() for batch in batches]
    np.testing.assert_allclose(given.losses, np.repeat(means, 4), rtol=1e-6)
    plain = {name: value for name, value in out.metrics.items() if name != "eval_loss"}
    assert plain == {"eval_tensor": 2.0, "eval_numpy": 0.5, "eval_many": [1, 2]}
    assert all(type(value) in (float, list) for value in plain.values())


def test_a_function_can_be_called_batch_by_batch(ranks: Ranks) -> None:
    calls: list[tuple[int, bool]] = []

    def function(seen: Any, compute_result: bool) -> dict[str, int]:
        assert isinstance(seen.predictions, Tensor)
        assert seen.inputs is not None
        calls.append((len(seen.label_ids), compute_result))
        return {"calls": len(calls)}

    compute = ComputeMetrics(
        function=function, batch_eval=True, include=("inputs",), main_input_name="scores"
    )
    objective: Any = Classes()
    evaluator = Evaluator(objective, ranks, {}, compute=compute)
    out = evaluator.loop(Outputs(), Scores(3))
    assert calls == [(4, False), (4, False), (4, True)]
    assert out.metrics["eval_calls"] == 3
    assert out.predictions is None
    assert evaluator.loop(Outputs(), Scores(3), keep=True).predictions.shape == (12, 5)


def test_batches_may_stay_apart(ranks: Ranks) -> None:
    sizes: list[int] = []

    def function(seen: Any) -> dict[str, int]:
        sizes.extend(map(len, seen.predictions))
        return {"batches": len(seen.label_ids)}

    objective: Any = Classes()
    compute = ComputeMetrics(function=function, concat=False)
    out = Evaluator(objective, ranks, {}, compute=compute).loop(Outputs(), Scores(3))
    assert out.metrics["eval_batches"] == 3
    assert sizes == [4, 4, 4]


def test_a_nan_stays_one(ranks: Ranks) -> None:
    batches = list(Scores(2))
    batches[1]["scores"][0, 0] = math.nan
    objective: Any = Classes()
    metrics = material.metrics()
    found = Evaluator(objective, ranks, {"set": batches}, metrics=metrics)(Outputs())
    assert math.isnan(found["eval_loss"])
    assert math.isnan(found["eval_perplexity"])


def test_the_model_is_left_as_it_was_and_each_batch_is_told(ranks: Ranks) -> None:
    model, told = Outputs(), []
    objective: Any = Classes()
    evaluator = Evaluator(objective, ranks, {"a": Scores(2), "b": Scores(3)})
    for training in (True, False):
        model.train(training)
        evaluator(model, lambda: told.append(model.training or torch.is_grad_enabled()))
        assert model.training is training
    assert told == [False] * 10
    broken: Any = SimpleNamespace(predict=lambda *given, **named: 1 / 0)
    model.train()
    with pytest.raises(ZeroDivisionError):
        Evaluator(broken, ranks, {"a": Scores(1)})(model)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("compute", "error", "text"),
    [
        ({"function": lambda seen: {"loss": 1.0}}, ConfigError, "'eval_loss' is measured already"),
        ({"function": lambda seen: 0.5}, ConfigError, "a mapping .* is wanted, it returned float"),
        (
            {"function": accuracy, "include": ("inputs",)},
            ConfigError,
            "no 'input_ids', it has scores, labels",
        ),
    ],
)
def test_what_a_function_may_not_do(
    ranks: Ranks, compute: dict[str, Any], error: type[Exception], text: str
) -> None:
    objective: Any = Classes()
    with pytest.raises(error, match=text):
        Evaluator(objective, ranks, {}, compute=ComputeMetrics(**compute)).loop(Outputs(), Scores(1))


def test_unknown_inclusions_and_empty_sets_are_errors(ranks: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"include_for_metrics: 'logits' cannot .* 'inputs' and 'loss' can"):
        ComputeMetrics(include=("logits",))
    objective: Any = Classes()
    with pytest.raises(DataError, match="evaluation: the data set 'empty' gave no batch"):
        Evaluator(objective, ranks, {"empty": []})(Outputs())
    with pytest.raises(ConfigError, match=r"metrics: 'accuracy' is measured twice"):
        Evaluator(objective, ranks, {}, metrics=[*material.metrics(), *material.metrics()[:1]])
    with pytest.raises(ConfigError, match=r"there is no data to evaluate on; name some in data\.validation"):
        Evaluator(objective, ranks, {})(Outputs())


def test_memory_does_not_grow_with_the_data(ranks: Ranks) -> None:
    def peak(count: int) -> tuple[int, int]:
        objective, model = Classes(), Outputs()
        objective.asked = SimpleNamespace(append=lambda loss_only: None)  # type: ignore[assignment]
        evaluator = Evaluator(objective, ranks, {"set": Scores(count)}, metrics=material.metrics())  # type: ignore[arg-type]
        tracemalloc.start()
        evaluator(model)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return model.most, highest

    peak(10)  # what is loaded or cached once
    few, few_bytes = peak(10)
    many, many_bytes = peak(1000)
    assert few == many == 1, "one batch's predictions are alive at a time"
    assert many_bytes < few_bytes + 20_000
    kept = Outputs()
    objective: Any = Classes()
    Evaluator(objective, ranks, {}).loop(kept, Scores(10), keep=True)
    assert kept.most == 10, "the measure sees what is kept"


def test_rows_are_counted_as_documents_or_by_the_first_tensor() -> None:
    assert num_rows({"input_ids": torch.zeros(1, 9), "cu_seqlens": torch.tensor([0, 4, 9])}) == 2
    assert num_rows({"text": "abc", "nested": [{"x": torch.zeros(3, 2)}]}) == 3
    assert num_rows((np.zeros(4), torch.zeros(2))) == 4
    assert num_rows({"text": "abc"}) == 0


# -- what the predict task writes ----------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_each_document_is_scored(model: Any, packed: bool) -> None:
    written: list[dict[str, Any]] = []
    with torch.no_grad():
        for batch in material.RankBatches(rows=ROWS, per_device=4, packed=packed):
            written += material.OBJECTIVE.predictions(model, batch)
    for row, line in zip(ROWS, json.loads(json.dumps(written)), strict=True):
        loss, tokens = mean_loss(model, [row])
        assert line["tokens"] == tokens
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert line["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_documents_without_supervised_tokens_have_no_loss(model: Any) -> None:
    ids = torch.tensor([[1, 2, 3]])
    nothing = {"input_ids": ids, "labels": torch.full_like(ids, -100)}
    written = material.OBJECTIVE.predictions(model, nothing)
    assert written == [{"loss": None, "perplexity": None, "tokens": 0}]
    with pytest.raises(
        DataError, match="predict: causal_lm scores the labels of a batch, and this one has none"
    ):
        material.OBJECTIVE.predictions(model, {"input_ids": ids})


def test_a_batch_without_labels_has_logits_alone(model: Any) -> None:
    ids = torch.tensor([[1, 2, 3]])
    seen = CausalLM(CausalLMOptions()).predict(model, {"input_ids": ids})
    torch.testing.assert_close(seen.logits, model(ids).logits)
    assert (seen.terms, seen.weights, seen.labels, seen.losses) == ({}, {}, None, None)
    assert CausalLM(CausalLMOptions()).predict(model, {"input_ids": ids}, loss_only=True).logits is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_same_with_and_without_logits(model: Any, smoothing: float) -> None:
    objective = CausalLM(CausalLMOptions(), label_smoothing=smoothing)
    batch = next(iter(material.RankBatches(rows=ROWS, per_device=5)))
    cheap = objective.predict(model, batch, loss_only=True)
    whole = objective.predict(model, batch)
    assert whole.terms["loss"] == cheap.terms["loss"] == objective(model, batch).terms["loss"]
    assert whole.weights == cheap.weights == objective.weights(batch)
    assert whole.losses is not None
    assert whole.losses.tolist() == [(whole.terms["loss"] / whole.weights["loss"]).item()] * 5
    assert cheap.losses is None


# -- against the reference -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"eval_do_concat_batches": False}, {"eval_accumulation_steps": 2}])
def test_predictions_equal_the_references(
    ranks: Ranks, model: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """transformers' own trainer with the same weights and batches; only its loss is a mean of batch means."""
    config = transformers.LlamaConfig(**model.config.to_dict())
    oracle = transformers.LlamaForCausalLM(config)
    oracle.load_state_dict(dict(named_checkpoint_tensors(model)))
    compute: list[Any] = []

    def function(seen: Any) -> dict[str, Any]:
        compute.append(seen)
        return {"count": len(seen.label_ids)}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        per_device_eval_batch_size=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        include_for_metrics=["inputs", "loss"],
        **settings,
    )
    trainer = transformers.Trainer(
        oracle,
        arguments,
        data_collator=material.collate,
        compute_metrics=function,
    )
    theirs = trainer.predict(ROWS)
    ours = Evaluator(
        material.OBJECTIVE,
        ranks,
        {},
        compute=ComputeMetrics(
            function=function,
            include=("inputs", "loss"),
            concat=settings.get("eval_do_concat_batches", True),
            accumulation_steps=settings.get("eval_accumulation_steps"),
        ),
    ).loop(model, material.RankBatches(rows=ROWS), prefix="test", keep=True)
    assert theirs.metrics["test_count"] == ours.metrics["test_count"]
    reference, own = compute
    for name in ("predictions", "label_ids", "inputs", "losses"):
        expected, given = getattr(reference, name), getattr(own, name)
        assert isinstance(given, list) == isinstance(expected, list)
        lists = (
            (given, own.inputs, expected) if isinstance(given, list) else ([given], [own.inputs], [expected])
        )
        for one, inputs, other in zip(*lists, strict=True):
            assert one.dtype == other.dtype
            if name == "losses":  # the reference repeats a short batch's loss as often as a whole one's
                other = other[: len(one)]
            assert one.shape == other.shape
            words = inputs > 0  # what is said at padding is nobody's business
            chosen = words if name == "predictions" else ...
            np.testing.assert_allclose(one[chosen], other[chosen], rtol=1e-4, atol=1e-5)
            if name == "predictions":
                np.testing.assert_array_equal(one[inputs == -100], other[inputs == -100])
    assert type(ours.predictions) is type(theirs.predictions)


# -- two processes -------------------------------------------------------------------------------------------


def test_two_processes_measure_and_gather_as_one(ranks: Ranks) -> None:
    """11 rows leave the second rank less in the last round, 9 leave it nothing there, 1 nothing at all."""
    cases = [[11, 1], [9, 6]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2]),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(SCRIPT), *map(json.dumps, cases)]
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(err for _, err in outputs)[
        -3000:
    ]
    for counts, found in zip(cases, json.loads(outputs[0][0]), strict=True):
        # One process with both ranks' rows in a batch, so that it is called as often.
        alone = json.loads(json.dumps(material.figures(ranks, counts, per_device=4)))
        assert found["labels"] == alone["labels"]
        assert found["num_samples"] == alone["num_samples"] == counts[0]
        np.testing.assert_allclose(found["scores"], alone["scores"], rtol=1e-5, atol=1e-5)
        for name in ("everything", "streaming", "loss_only", "by_batch"):
            own = {key: value for key, value in alone[name].items() if not key.endswith("losses")}
            shared = {key: value for key, value in found[name].items() if not key.endswith("losses")}
            assert shared == pytest.approx(own, rel=1e-5), name
