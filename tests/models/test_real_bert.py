"""A real BERT, trained by others: its embeddings are theirs, mean what they should, and help to learn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from models import AutoModel, AutoModelForSequenceClassification, BertConfig, TaskModel
from processors import AutoTokenizer
from tests.real_models import MINILM, fetched
from trainer import Trainer, TrainingArguments

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = (
    "A man is playing the guitar on the stage.",
    "Someone performs music on a guitar in front of an audience.",
    "The central bank raised its interest rates by a quarter point.",
    "Der Preis für Weizen stieg im März um 3,5 %.",
    "naïve café, 東京 😀",
)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all-MiniLM-L6-v2: a BERT of 22 million parameters in Hugging Face form."""
    return fetched(MINILM, tmp_path_factory.mktemp("minilm")).parent


def embedded(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Sentence embeddings as this model makes them: the mean over tokens, normalized."""
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def test_embeddings_equal_the_oracle(minilm: Path) -> None:
    given = {"padding": True, "return_tensors": "pt"}
    batch = dict(AutoTokenizer.from_pretrained(minilm)(list(SENTENCES), **given))
    theirs = dict(transformers.AutoTokenizer.from_pretrained(minilm)(list(SENTENCES), **given))
    assert batch.keys() == theirs.keys()
    assert all(torch.equal(batch[name], theirs[name]) for name in batch)
    model, report = AutoModel.from_pretrained(minilm, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    found = embedded(model, batch)
    expected = embedded(transformers.AutoModel.from_pretrained(minilm), theirs)
    assert (found - expected).abs().max() <= 1e-5
    same, other = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert same > other + 0.4, (same, other)


def rows(split: str, count: int, tokenizer: Any) -> Iterator[dict[str, Any]]:
    lines = (ROOT / f"recipes/data/reviews/{split}.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines[:count]:
        row = json.loads(line)
        yield {**tokenizer(row["text"], truncation=True, max_length=32), "labels": row["label"]}


def accuracy(model: TaskModel, minilm: Path, folder: Path) -> float:
    """After one short training on film reviews."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=40,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=2e-4,
        warmup_steps=4,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=list(rows("train", 640, tokenizer)),
        eval_dataset=list(rows("test", 200, tokenizer)),
        processing_class=tokenizer,
        compute_metrics=lambda seen: {
            "accuracy": float((seen.predictions.argmax(-1) == seen.label_ids).mean())
        },
    )
    trainer.train()
    return trainer.evaluate()["eval_accuracy"]


def test_fine_tuning_beats_the_same_net_from_random_weights(minilm: Path, tmp_path: Path) -> None:
    tuned = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
    fresh = AutoModelForSequenceClassification.from_config(BertConfig.from_pretrained(minilm), seed=0)
    found = accuracy(tuned, minilm, tmp_path / "tuned"), accuracy(fresh, minilm, tmp_path / "fresh")
    assert found[0] >= found[1] + 0.1, found
