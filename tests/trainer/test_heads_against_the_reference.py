"""Encoders under their heads, fine-tuned from Python with the default collator: as by the reference."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import models
from processors import AutoTokenizer
from tests.trainer.programs import arguments, distance
from tests.trainer.test_against_the_reference import COMMON, TOLERANCE, Oracle
from trainer import Trainer

SHAPE = {
    "vocab_size": 57,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
OF_FAMILY = {"Bert": {}, "Albert": {"embedding_size": 8, "classifier_dropout_prob": 0.0}}
# SGD, as Adam makes steps of the noise that is the gradient of a bias on the keys.
OPTIONS = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 4, "per_device_train_batch_size": 4}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "words": ("BertForTokenClassification", {"num_labels": 5}),
    "spans": ("BertForQuestionAnswering", {}),
    "choices": ("AlbertForMultipleChoice", {}),
    "classes": ("AlbertForSequenceClassification", {"num_labels": 3}),
    "marks": ("BertForSequenceClassification", {"num_labels": 3}),
    "values": ("BertForSequenceClassification", {"num_labels": 2, "problem_type": "regression"}),
    "pretraining": ("BertForPreTraining", {}),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory, quiet_reference: None) -> tuple[Any, Any]:
    """Ours and theirs, of a folder that holds a vocabulary alone."""
    folder = tmp_path_factory.mktemp("vocabulary")
    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return AutoTokenizer.from_pretrained(folder), transformers.BertTokenizer(str(folder / "vocab.txt"))


def rows(kind: str, tokenizer: Any) -> list[dict[str, Any]]:
    return list(_rows(kind, tokenizer))


def _rows(kind: str, tokenizer: Any) -> Iterator[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    for i in range(13):
        text, pair = "stockpot"[: 2 + i % 5], "framework"[: 1 + i % 4]
        if kind == "choices":
            pairs = [text] * 3, [pair, "ab", "abc"]
            yield {**tokenizer(*pairs, padding="max_length", max_length=16), "label": i % 3}
            continue
        row = dict(tokenizer(text, pair))
        length = len(row["input_ids"])
        classes = torch.randint(0, 5, (length,), generator=random).tolist()
        words = [label if place % 3 else -100 for place, label in enumerate(classes)]
        labels: dict[str, dict[str, Any]] = {
            "words": {"labels": words},
            "spans": {"start_positions": i % length, "end_positions": length - 1},
            "classes": {"label": i % 3},
            "marks": {"label": [float(i % 2), 1.0, float(i % 3 == 0)]},
            "values": {"label": [i / 10, -100.0 if i == 3 else 1.0]},
            "pretraining": {"labels": words, "next_sentence_label": i % 2},
        }
        yield {**row, **labels[kind]}


@pytest.mark.parametrize("kind", CASES)
def test_heads_learn_as_by_the_reference(kind: str, tokenizers: tuple[Any, Any], tmp_path: Path) -> None:
    (architecture, options), (own, foreign) = CASES[kind], tokenizers
    family = architecture.partition("For")[0]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SHAPE, **OF_FAMILY[family], **options)
    reference = getattr(transformers, architecture)(config)
    reference.save_pretrained(tmp_path)

    pads_labels = transformers.DataCollatorForTokenClassification(foreign)
    theirs = Oracle(
        model=reference,
        args=transformers.TrainingArguments(str(tmp_path / "theirs"), **{**COMMON, **OPTIONS}),
        train_dataset=rows(kind, foreign),
        processing_class=foreign,
        data_collator=pads_labels if kind in ("words", "pretraining") else None,
    )
    theirs.train()

    def fine_tuned(name: str, **split: int) -> tuple[list[float], dict[str, Any]]:
        model = getattr(models, architecture).from_pretrained(tmp_path)
        args = arguments(tmp_path / name, **{**COMMON, **OPTIONS, **split})
        trainer = Trainer(model, args, train_dataset=rows(kind, own), processing_class=own)
        trainer.train()
        trainer.save_model(str(tmp_path / name / "saved"))
        saved = getattr(transformers, architecture).from_pretrained(tmp_path / name / "saved")
        return [line["loss"] for line in trainer.state.log_history if "loss" in line], saved.state_dict()

    losses, weights = fine_tuned("ours")
    assert losses == pytest.approx([*theirs.seen.values()], rel=TOLERANCE)
    assert distance(reference.state_dict(), weights) < TOLERANCE
    # Positions of padding are among the scores of a span; the mean of pairs is no share of a step's words.
    if kind not in ("spans", "pretraining"):
        halves = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
        split, split_weights = fine_tuned("split", **halves)
        assert split == pytest.approx(losses, rel=TOLERANCE)
        assert distance(weights, split_weights) < TOLERANCE
