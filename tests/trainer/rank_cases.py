"""Trainings that are the same on two processes as on one; run as a script by each of two processes.

``train_case(name, folder)`` makes one training and gives what is to be known of it on this rank. As a script
``rank_cases.py FOLDER`` makes all of them, each in ``FOLDER/<name>``, and writes ``FOLDER/facts.json`` with
the facts of both ranks, or the error that a case ended with.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.faults import after_backward, overflow, run_out_of_memory
from trainer import Trainer, TrainingArguments, loop
from trainer.cli import run_command
from trainer.ranks.ranks import Ranks

RECIPE = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    "data.max_truncated=1",
    "data.packing=false",
    "logging.logging_steps=1",
    "checkpoint.save_strategy=no",
    "callbacks.samples=null",
    "callbacks.progress=null",
)
SHORT = (
    "training.max_steps=4",
    "optimizer.adam_epsilon=1e-6",
    "evaluation.eval_steps=4",
    "evaluation.per_device_eval_batch_size=16",
)
ROWS_PER_STEP = 4
ONE_STEP = (  # after which the weights have lost the rate times the gradient
    "optimizer=sgd",
    "optimizer.momentum=0",
    "optimizer.weight_decay=0",
    "schedule=constant",
    "training.max_grad_norm=0",
    "training.max_steps=1",
    "evaluation.eval_strategy=no",
)
NEFTUNE = (*SHORT, "training.neftune_noise_alpha=5", "model.config.attention_dropout=0.1")
WORDS = {
    "label smoothing": (
        *SHORT,
        "training.label_smoothing_factor=0.1",
    ),
    "group by length": (
        *SHORT,
        "data.group_by_length=true",
    ),
    "metrics": (*SHORT, "metrics.accuracy={}", "metrics.perplexity={}"),
    "tokens seen": (
        *SHORT,
        "logging.include_num_input_tokens_seen=non_padding",
    ),
    "rank averages": (
        *ONE_STEP,
        "optimizer.learning_rate=1",
        "training.average_tokens_across_devices=false",
    ),
    "searching the batch size": (
        *SHORT,
        "training.auto_find_batch_size=true",
    ),
    "fp16 overflow": (
        *SHORT,
        "precision=fp16",
    ),
    "experts": (*SHORT, "model=afmoe", "training.max_steps=5"),  # odd: no moved bias is where it began
    "NEFTune": NEFTUNE,
    "NEFTune again": NEFTUNE,
}
PROGRAMS = {"program, uneven": 11, "program, a rank without rows": 9}
CASES = (*WORDS, *PROGRAMS)


def train_case(name: str, folder: Path, *, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Train a case on this process, as one of ``world_size``."""
    if name in PROGRAMS:
        return train_program(folder, rows=PROGRAMS[name], world_size=world_size)
    with pytest.MonkeyPatch.context() as patch:
        fault(name, patch, rank=rank, world_size=world_size)
        per_device = f"training.per_device_train_batch_size={ROWS_PER_STEP // world_size}"
        return train_recipe(folder, per_device, *WORDS[name])


def fault(name: str, patch: pytest.MonkeyPatch, *, rank: int, world_size: int) -> None:
    """What goes wrong in a case, on the last of several ranks only."""
    if rank < world_size - 1:
        return
    if name == "searching the batch size" and world_size > 1:
        after_backward(patch, run_out_of_memory, {2})
    if name == "fp16 overflow" and world_size > 1:
        backwards, original = [], Ranks.backward

        def too_large(self: Ranks, loss: Tensor) -> None:
            backwards.append(1)
            original(self, loss * 1e30 if len(backwards) == 2 else loss)  # before the ranks add up

        patch.setattr(Ranks, "backward", too_large)
    elif name == "fp16 overflow":
        after_backward(patch, overflow, {2})


def train_recipe(folder: Path, *words: str) -> dict[str, Any]:
    seen: list[Any] = []
    original = loop.train

    def watched(run: Any) -> Any:
        seen.append(run)
        return original(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", watched)
        run_command([*RECIPE, *words, f"output_dir={folder}"])
    (run,) = seen
    return {
        "updates": run.updates,
        "scale": run.ranks.loss_scale,
        "micro-batch": run.state.train_batch_size,
        "tokens": run.state.num_input_tokens_seen,
    }


# -- a program --------------------------------------------------------------------------------------------


class Words(nn.Module):
    """Predicts each word from the one before it; its loss is a sum over ``num_items_in_batch``."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(17, 8), nn.Linear(8, 17)

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = self.out(self.table(input_ids).tanh())  # (B, T, 17)
        if labels is None:
            return {"logits": logits}
        total = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
        )
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count, "logits": logits}


def sentences(count: int, seed: int) -> list[dict[str, list[int]]]:
    """Sentences of 3 to 8 words; what is to be said at each is the word after it."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        words = torch.randint(1, 17, (3 + (5 * number) % 6,), generator=generator).tolist()
        rows.append({"input_ids": words, "labels": [*words[1:], -100]})
    return rows


def padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100}
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
        for name, value in fill.items()
    }


def train_program(folder: Path, *, rows: int, world_size: int) -> dict[str, Any]:
    """Three epochs whose last step is short; then the metrics of a data set and the predictions for it."""
    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        num_train_epochs=3,
        per_device_train_batch_size=ROWS_PER_STEP // world_size,
        per_device_eval_batch_size=ROWS_PER_STEP // world_size,
        learning_rate=1e-2,
        adam_epsilon=1e-6,
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model_init=Words,
        args=arguments,
        data_collator=padded,
        train_dataset=sentences(rows, seed=0),
        eval_dataset=sentences(7, seed=1),
        compute_metrics=lambda seen: {"labels": int((seen.label_ids != -100).sum())},
    )
    trainer.train()
    predicted = trainer.predict(sentences(7, seed=1))
    return {
        "steps": trainer.state.global_step,
        "evaluation": {
            k: v for k, v in trainer.evaluate().items() if not k.endswith(("_runtime", "_second"))
        },
        "labels": predicted.label_ids.tolist(),
        "predictions": predicted.predictions.tolist(),
    }


def both_ranks(folder: Path, cases: Sequence[str]) -> None:
    """Make all cases on this process, which is one of two, in one process group."""
    torch.set_num_threads(1)
    machine = Ranks(use_cpu=True, timeout_seconds=60)
    close: Callable[[Ranks], None] = Ranks.close
    Ranks.close = lambda self: None  # type: ignore[method-assign]
    facts = {}
    for name in cases:
        try:
            found: Any = train_case(name, folder / name, rank=machine.rank, world_size=machine.world_size)
        except Exception:
            found = traceback.format_exc()
        facts[name] = machine.gather(found)
    if machine.is_main:
        (folder / "facts.json").write_text(json.dumps(facts))
    close(machine)


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    both_ranks(Path(sys.argv[1]), sys.argv[2:] or CASES)
