"""Small models, data and arguments for programs that use the ``Trainer``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from trainer import Trainer, TrainingArguments

VOCABULARY = 32
LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def arguments(folder: Path | str, **given: Any) -> TrainingArguments:
    """Arguments of a quiet, short training that logs each step and writes no checkpoint."""
    usual = {
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
    }
    if "num_train_epochs" in given:
        del usual["max_steps"]
    return TrainingArguments(output_dir=str(folder), **{**usual, **given})


def tokens(count: int = 13, seed: int = 0, width: int = 8) -> list[dict[str, Any]]:
    """Rows of tokens of one width, whose labels count from a different place in each."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        ids = torch.randint(1, VOCABULARY, (width,), generator=random)
        labels = ids.clone()
        labels[: int(torch.randint(0, width - 1, (1,), generator=random))] = -100
        rows.append({"input_ids": ids, "labels": labels})
    return rows


def points(count: int = 13, seed: int = 0) -> list[dict[str, Any]]:
    """Rows for a ``Classifier``: four numbers and one of three classes."""
    random = torch.Generator().manual_seed(seed)
    return [
        {
            "x": torch.randn(4, generator=random),
            "labels": int(torch.randint(0, 3, (1,), generator=random)),
        }
        for _ in range(count)
    ]


class Classifier(nn.Module):
    """Any module: a mean loss first, then the scores; ``form`` is how it returns them."""

    def __init__(self, form: str = "dict", dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.scores = nn.Linear(4, 8), nn.Linear(8, 3)
        self.dropout, self.form = nn.Dropout(dropout), form

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.scores(self.dropout(self.hidden(x).tanh()))
        if labels is None:
            return {"logits": logits} if self.form == "dict" else (logits,)
        loss = F.cross_entropy(logits, labels)
        if self.form == "tensor":
            return loss
        return {"loss": loss, "logits": logits} if self.form == "dict" else (loss, logits)


class CountingClassifier(Classifier):
    """One that divides by what it is told, so that no split of a step matters."""

    def forward(  # type: ignore[override]
        self, x: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = self.scores(self.dropout(self.hidden(x).tanh()))
        total = F.cross_entropy(logits, labels, reduction="sum")
        return {"loss": total / (len(labels) if num_items_in_batch is None else num_items_in_batch)}


class Stream(IterableDataset[Any]):
    """Rows that can only be iterated, shuffled by the ``generator`` that a trainer seeds."""

    def __init__(self, rows: list[Any]):
        self.rows, self.generator = rows, torch.Generator()

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.rows), generator=self.generator)
        return (self.rows[i] for i in order.tolist())


class SizedStream(Stream):
    """One that knows how many there are."""

    def __len__(self) -> int:
        return len(self.rows)


def losses(trainer: Trainer) -> list[float]:
    """The loss of each logged line."""
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models are equal, bit for bit."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """||a - b|| / ||a|| over the whole model."""
    assert first.keys() == second.keys()
    a, b = (torch.cat([part[name].double().flatten() for name in first]) for part in (first, second))
    return float((a - b).norm() / a.norm())


def trained(folder: Path, model: nn.Module | None = None, rows: Any = None, **given: Any) -> Trainer:
    """A trainer that trained; what is no argument of a training is the constructor's."""
    names = (
        "callbacks", "data_collator", "optimizers", "optimizer_cls_and_kwargs", "compute_loss_func",
        "compute_metrics", "eval_dataset", "processing_class", "model_init",
    )  # fmt: skip
    objects = {name: given.pop(name) for name in names if name in given}
    if "model_init" not in objects:
        objects["model"] = Classifier() if model is None else model
    trainer = Trainer(
        args=arguments(folder, **given), train_dataset=points() if rows is None else rows, **objects
    )
    trainer.train()
    return trainer
