"""A small Python program: a model of a few hundred numbers, two dozen rows, and a Trainer of both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.seq2seq import Seq2SeqTrainer
from trainer.state import TrainerCallback, TrainerState
from trainer.trainer import Trainer
from trainer.training_arguments import Seq2SeqTrainingArguments

WORDS, CHANNELS, LENGTH, ROWS = 12, 6, 4, 24
# What a program of these tests asks for unless it says otherwise: three steps of eight rows.
USUAL: dict[str, Any] = {
    "num_train_epochs": 1,
    "save_strategy": "no",
    "logging_steps": 1,
    "learning_rate": 1e-2,
    "disable_tqdm": True,
}
_numbers = itertools.count()


class Tagger(nn.Module):
    """Gives each token a label; the loss is a sum over ``num_items_in_batch``, or the mean of the batch.

    ``watch`` is called with each batch's tokens and logits.
    """

    def __init__(self, watch: Any = None):
        super().__init__()
        self.words = nn.Embedding(WORDS, CHANNELS)
        self.scores = nn.Linear(CHANNELS, WORDS)
        self.watch = watch

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, num_items_in_batch: Any = None
    ) -> dict[str, Any]:
        logits = self.scores(self.words(input_ids))
        if self.watch is not None:
            self.watch(input_ids, logits)
        if labels is None:
            return {"logits": logits}
        total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        return {"loss": total / (num_items_in_batch or labels.numel()), "logits": logits}


def tagger(seed: int = 0, watch: Any = None) -> Tagger:
    torch.manual_seed(seed)
    return Tagger(watch)


def rows(count: int = ROWS, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows whose first token is the number of the row, and whose labels are the tokens turned round."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(WORDS, (count, LENGTH), generator=draw)
    return [{"input_ids": row, "labels": row[::-1]} for row in tokens.tolist()]


def program(folder: Path, *, seq2seq: bool = False, parts: dict[str, Any] | None = None, **given: Any) -> Any:
    """A Trainer with these arguments, its run in a folder of its own below ``folder``."""
    usual = {name: value for name, value in USUAL.items() if name not in given}
    if "max_steps" in given:
        del usual["num_train_epochs"]
    if given.get("logging_strategy", "steps") != "steps":
        del usual["logging_steps"]
    if given.keys() & {"save_steps", "save_total_limit", "save_only_model", "push_to_hub"}:
        usual.pop("save_strategy", None)
    arguments = {"output_dir": str(folder / f"run-{next(_numbers)}"), **usual, **given}
    objects = {"model": tagger(), "train_dataset": rows(), **(parts or {})}
    if "model_init" in objects:
        del objects["model"]
    kind = Seq2SeqTrainer if seq2seq else Trainer
    return kind(args=Seq2SeqTrainingArguments(**arguments), **objects)


def trained(folder: Path, **given: Any) -> Any:
    """A Trainer that has trained."""
    made = program(folder, **given)
    made.train()
    return made


def weights(trainer: Any) -> Tensor:
    """All numbers of a Trainer's model, one after the other."""
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def lines(trainer: Any, name: str) -> list[Any]:
    """The values of that name in the log, in order."""
    return [line[name] for line in trainer.state.log_history if name in line]


def steps(trainer: Any, name: str) -> list[int]:
    """The steps at which a value of that name was logged."""
    return [line["step"] for line in trainer.state.log_history if name in line]


def listening(**actions: Callable[[TrainerState], Any]) -> TrainerCallback:
    """A callback that does something at events: ``listening(on_step_end=lambda state: ...)``."""

    def method(action: Callable[[TrainerState], Any]) -> Callable[..., None]:
        def event(self: Any, args: Any, state: TrainerState, control: Any, **given: Any) -> None:
            action(state)

        return event

    return type("Listening", (TrainerCallback,), {name: method(act) for name, act in actions.items()})()


def seen_rows(folder: Path, dataset: Sequence[Any] | None = None, **given: Any) -> list[list[Any]]:
    """The first tokens of each micro-batch that a training looked at, in order."""
    seen: list[list[Any]] = []
    model = tagger(watch=lambda ids, logits: seen.append(ids[:, 0].tolist()))
    parts = {"model": model, **({} if dataset is None else {"train_dataset": dataset})}
    trained(folder, parts=parts, **given)
    return seen


def files(folder: Path) -> set[str]:
    """The names of everything in a folder."""
    return {path.name for path in folder.iterdir()}


def by_hand(make: Callable[[Tagger], torch.optim.Optimizer], model: Tagger) -> Tensor:
    """The weights after three steps of an ordinary loop, unshuffled, clipped to norm 1."""
    optimizer, data = make(model), rows()
    for step in range(3):
        batch = data[step * 8 : (step + 1) * 8]
        inputs = {name: torch.tensor([row[name] for row in batch]) for name in ("input_ids", "labels")}
        optimizer.zero_grad()
        model(**inputs)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
