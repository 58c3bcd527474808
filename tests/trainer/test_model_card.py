"""The card of a model: its metadata as a hub reads it, its tables against the reference's, no secrets."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers.modelcard import TrainingSummary, make_markdown_table, parse_log_history

from conf.decode import decode
from trainer import model_card as module
from trainer.config import RunConfig
from trainer.model_card import CardFacts, facts_of, library_versions, model_card

HISTORY: list[dict[str, Any]] = [
    {"loss": 3.25, "learning_rate": 1e-4, "epoch": 0.5, "step": 5},
    {"eval_loss": 3.5, "eval_accuracy": 0.25, "eval_runtime": 1.0, "eval_steps_per_second": 3.0}
    | {"eval_samples_per_second": 9.0, "epoch": 1.0, "step": 10},
    {"loss": 2.125, "learning_rate": 1e-5, "epoch": 1.5, "step": 15},
    {"eval_loss": 2.5, "eval_accuracy": 0.5, "eval_runtime": 2.0, "eval_steps_per_second": 3.0}
    | {"eval_samples_per_second": 9.0, "epoch": 2.0, "step": 20},
    {"train_runtime": 100.0, "train_loss": 2.7, "total_flos": 1e9, "epoch": 2.0, "step": 20},
]
FACTS = CardFacts(
    model_name="my-model",
    language="en",
    license="apache-2.0",
    tags=["tiny", "demo"],
    finetuned_from="owner/parent",
    tasks="text-classification",
    dataset_tags=["glue"],
    dataset=["GLUE MRPC"],
    dataset_args=["mrpc"],
    architecture="BertForSequenceClassification",
    objective="classification",
    hyperparameters={"optimizer.learning_rate": 1e-4, "training.seed": 0, "off": False, "none": None},
    metrics=HISTORY[3],
    log_history=HISTORY,
    versions={"torch": "2.13.0"},
)


def parts(card: str) -> tuple[dict[str, Any], str]:
    empty, metadata, text = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(metadata), text


def table(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split(" |")] for row in rows]
    return [cells[0], *cells[2:]]


def test_metadata_is_the_reference_s() -> None:
    metadata, _ = parts(model_card(FACTS))
    _, lines, results = parse_log_history(HISTORY)
    summary = TrainingSummary(
        model_name="my-model",
        language="en",
        license="apache-2.0",
        tags=["tiny", "demo", "stockpot"],
        finetuned_from="owner/parent",
        tasks="text-classification",
        dataset="GLUE MRPC",
        dataset_tags="glue",
        dataset_args="mrpc",
        eval_results=results,
        eval_lines=lines,
    )
    wanted = {k: v for k, v in summary.create_metadata().items() if k != "library_name"}
    del wanted["model-index"][0]["results"][0]["task"]["name"]
    assert metadata == {**wanted, "pipeline_tag": "text-classification"}


def test_the_hub_s_own_reader_takes_it() -> None:
    card = ModelCard(model_card(FACTS))
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "apache-2.0",
        "owner/parent",
        ["glue"],
    )
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_args) == ("accuracy", 0.5, "mrpc")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_the_table_is_the_reference_s() -> None:
    _, lines, _ = parse_log_history(HISTORY)
    (head, *rows), (wanted_head, *wanted) = table(model_card(FACTS)), table(make_markdown_table(lines))
    assert head == wanted_head
    assert [[float(cell) for cell in row] for row in rows] == [
        [float(cell) for cell in row] for row in wanted
    ]


def test_the_text() -> None:
    _, text = parts(model_card(replace(FACTS, log_history=())))
    assert text == (
        "\n# my-model\n\n"
        "<!-- Written by Stockpot from what the training knew: please read and complete it. -->\n\n"
        "This model (`BertForSequenceClassification`) is a fine-tuned version of "
        "[owner/parent](https://huggingface.co/owner/parent), trained on `GLUE MRPC` with the objective "
        "`classification`.\n\n"
        "## Evaluation\n\n- Loss: 2.5\n- Accuracy: 0.5\n\n"
        "## Hyperparameters\n\n- `optimizer.learning_rate`: 0.0001\n- `training.seed`: 0\n\n"
        "## Versions\n\n- torch: 2.13.0\n"
    )


def test_what_is_unknown_is_left_out() -> None:
    metadata, text = parts(model_card(CardFacts(model_name="m")))
    assert metadata == {"tags": ["stockpot"]}
    assert text.endswith("This model was trained from scratch.\n")
    assert "#" not in text.replace("# m", "")


@pytest.mark.parametrize("missing", ["tasks", "dataset_tags", "metrics"])
def test_an_index_needs_task_data_set_and_metric(missing: str) -> None:
    empty: Any = {} if missing == "metrics" else None
    metadata, _ = parts(model_card(replace(FACTS, **{missing: empty})))
    assert "model-index" not in metadata
    assert "model_name" not in metadata


def test_several_of_everything() -> None:
    metrics = {"eval_f1": 0.5, "eval_rouge1": 0.25, "eval_other": 3.0, "eval_runtime": 9.0}
    facts = replace(FACTS, tasks=["a", "b"], dataset_tags=["x", "y"], dataset=["X"], metrics=metrics)
    metadata, _ = parts(model_card(facts))
    results = metadata["model-index"][0]["results"]
    assert [(r["task"]["type"], r["dataset"]["type"], r["dataset"]["name"]) for r in results] == [
        ("a", "x", "X"),
        ("a", "y", "y"),
        ("b", "x", "X"),
        ("b", "y", "y"),
    ]
    assert [(m["type"], m["value"]) for m in results[0]["metrics"]] == [("f1", 0.5), ("rouge", 0.25)]
    assert metadata["metrics"] == ["f1", "rouge"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hub.hub_token", False),
        ("accessToken", False),
        ("WANDB_API_KEY", False),
        ("aws.secret", False),
        ("password", False),
        ("credentials.file", False),
        ("processor.tokenizer.vocab_size", True),
        ("training.average_tokens_across_devices", True),
        ("max_new_tokens", True),
        ("optimizer.learning_rate", True),
    ],
)
def test_no_secret_gets_in(name: str, told: bool) -> None:
    card = model_card(replace(FACTS, hyperparameters={name: "hf_AbCdEf"}))
    assert ("hf_AbCdEf" in card) == told
    assert (f"`{name}`" in card) == told


def test_local_folders_are_no_names_at_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "parent").mkdir(parents=True)
    for base in ("runs/parent", str(tmp_path / "runs" / "parent"), "../gone/parent"):
        metadata, text = parts(model_card(replace(FACTS, finetuned_from=base)))
        assert "base_model" not in metadata
        assert "a fine-tuned version of a local model (parent), trained" in text
        assert str(tmp_path) not in text


def test_losses_are_told_where_nothing_was_evaluated_and_many_are_thinned() -> None:
    history = [{"loss": 1.0 / step, "step": step, "epoch": step / 100} for step in range(1, 202)]
    head, *rows = table(model_card(replace(FACTS, log_history=history)))
    assert head == ["Training Loss", "Epoch", "Step"]
    assert len(rows) <= module.MAX_ROWS
    assert rows[-1][2] == "201"
    steps = [int(row[2]) for row in rows]
    assert {b - a for a, b in itertools.pairwise(steps)} == {5}


def test_what_is_not_finite_is_told() -> None:
    history = [{"eval_loss": math.nan, "eval_accuracy": math.inf, "step": 1, "epoch": 1.0}]
    metadata, text = parts(model_card(replace(FACTS, log_history=history, metrics=history[0])))
    assert table(text)[1] == ["no log", "1", "1", "nan", "inf"]
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == math.inf


def test_sets_with_other_metrics_share_a_table() -> None:
    history = [{"eval_a_loss": 1.0, "step": 1, "epoch": 0.5}, {"eval_b|_loss": 2.0, "step": 2, "epoch": 1.0}]
    text = model_card(replace(FACTS, log_history=history))
    head, first, second = (line for line in text.splitlines() if line.startswith("|") and "---" not in line)
    assert head == "| Training Loss | Epoch | Step | A Loss | B\\| Loss |"
    assert (first, second) == ("| no log | 0.5 | 1 | 1 |  |", "| no log | 1 | 2 |  | 2 |")


def test_a_value_of_many_lines_stays_one() -> None:
    _, text = parts(model_card(replace(FACTS, hyperparameters={"a": "one\n# two"})))
    assert "- `a`: one # two\n" in text


def test_versions_are_those_installed() -> None:
    found = library_versions()
    assert found["torch"] == torch.__version__
    assert {"accelerate", "datasets", "tokenizers", "safetensors"} <= found.keys()


def known_facts(*, best_loaded: bool, **sections: Any) -> CardFacts:
    """What a run with two evaluations, the first of them the better one, knows of itself."""
    model: Any = torch.nn.Linear(1, 1)
    model.architecture = "LlamaForCausalLM"
    state = SimpleNamespace(log_history=HISTORY, best_global_step=10)
    checkpointer = SimpleNamespace(best_loaded=best_loaded)
    run: Any = SimpleNamespace(model=model, state=state, checkpointer=checkpointer)
    return facts_of(decode(RunConfig, sections), run, Path("runs/mine"))


def test_facts_of_a_run_are_those_of_the_model_that_is_saved() -> None:
    assert known_facts(best_loaded=False).metrics["eval_accuracy"] == 0.5
    assert known_facts(best_loaded=True).metrics["eval_accuracy"] == 0.25


def test_facts_of_a_run_by_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local" / "rows").mkdir(parents=True)
    paths = {"a": "team/rows", "b": "local/rows", "c": "gone.jsonl", "d": "../elsewhere", "e": "x/*"}
    train: dict[str, Any] = {name: {"path": path, "format": "text"} for name, path in paths.items()}
    train["a"]["config"] = "small"
    hub = {"hub_model_id": "team/model", "hub_token": "hf_never_shown"}
    facts = known_facts(best_loaded=False, data={"train": train}, hub=hub, model={"path": "team/parent"})
    assert (facts.model_name, facts.finetuned_from) == ("model", "team/parent")
    assert (facts.dataset_tags, facts.dataset_args) == (["team/rows"], ["small"])
    assert facts.tasks == ["text-generation"]
    assert facts.hyperparameters["optimizer.learning_rate"] == 5e-5
    assert {name.split(".")[0] for name in facts.hyperparameters} == {
        *("objective", "optimizer", "schedule", "training", "precision", "data")
    }
    assert "hf_never_shown" not in model_card(facts)
    unnamed = known_facts(best_loaded=False, data={"train": {"b": train["b"]}})
    assert (unnamed.model_name, unnamed.dataset_tags, unnamed.dataset) == ("mine", [], ["b"])


def test_a_run_writes_its_card(train: Any, tiny: Sequence[str]) -> None:
    os.environ["HF_TOKEN"] = "hf_never_shown"
    finished = train(*tiny, "evaluation.eval_strategy=steps", "evaluation.eval_steps=1")
    assert finished.status == 0, finished.err
    text = (finished.folder / "README.md").read_text()
    metadata, _ = parts(text)
    assert metadata == {"pipeline_tag": "text-generation", "tags": ["stockpot"]}
    assert "This model (`LlamaForCausalLM`) was trained from scratch on `" in text
    assert "with the objective `causal_lm`." in text
    assert "- `training.max_steps`: 2\n" in text
    head, *rows = table(text)
    assert head[:4] == ["Training Loss", "Epoch", "Step", "Validation Loss"]
    assert [row[2] for row in rows] == ["1", "2"]
    assert "hf_never" not in text
    assert "runtime" not in text.lower()
