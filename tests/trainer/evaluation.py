"""A small model and data to evaluate, and the same evaluation as two processes make it (run as a script)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from collators.flattening import DataCollatorWithFlattening
from collators.language_modeling import DataCollatorForLanguageModeling
from collators.options import LanguageModeling
from models import LlamaConfig, TaskModel, build_model
from trainer.data.batches import shares_of
from trainer.evaluator import ComputeMetrics, Evaluator
from trainer.metrics.accuracy import Accuracy
from trainer.metrics.options import AccuracyOptions, PerplexityOptions
from trainer.metrics.perplexity import Perplexity
from trainer.objectives.causal_lm import CausalLM
from trainer.objectives.options import CausalLMOptions
from trainer.ranks.ranks import Ranks

SMALL = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,  # wide, so that guesses differ
}
OBJECTIVE = CausalLM(CausalLMOptions())


def model() -> TaskModel:
    return build_model(LlamaConfig(**SMALL), "causal_lm", seed=0)


def documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents of 3 to 8 random tokens, the first ones of each not supervised."""
    random = np.random.default_rng(seed)
    return [
        {
            "input_ids": random.integers(1, SMALL["vocab_size"], length),
            "loss_mask": (np.arange(length) > length // 3).astype(np.uint8),
        }
        for length in random.integers(3, 9, count)
    ]


@dataclass(frozen=True, kw_only=True)
class RankBatches:
    """One rank's batches of some documents, cut as the framework cuts them."""

    rows: list[dict[str, Any]]
    per_device: int = 2
    rank: int = 0
    world_size: int = 1
    packed: bool = False
    multiple: int = 1

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        share = {"per_device": self.per_device, "rank": self.rank, "world_size": self.world_size}
        for own, silent in shares_of(self.rows, **share):
            if not silent:
                yield collate(own, packed=self.packed, multiple=self.multiple)


def collate(
    rows: Sequence[dict[str, Any]], *, packed: bool = False, multiple: int = 1
) -> dict[str, torch.Tensor]:
    if packed:
        return DataCollatorWithFlattening()(rows)
    options = LanguageModeling(pad_to_multiple_of=multiple)
    return DataCollatorForLanguageModeling(options, tokenizer=SimpleNamespace(pad_token_id=0))(rows)


def metrics() -> tuple[Any, ...]:
    return Accuracy(AccuracyOptions()), Perplexity(PerplexityOptions())


def shapes_and_sums(seen: Any) -> dict[str, float]:
    """Figures that change when a row is missing, doubled or misplaced."""
    scores, labels, inputs, losses = map(np.asarray, seen)
    order = np.arange(1, len(labels) + 1)
    return {
        "rows": len(labels),
        "inputs": int((inputs.sum(1) * order).sum()),
        "labels": int((labels.sum(1) * order).sum()),
        "scores": float((np.where(scores == -100, 0, scores).sum((1, 2), dtype=np.float64) * order).sum()),
        "losses": float((losses * order).sum()),
    }


class Counting:
    """A ``compute_metrics`` for one batch at a time, as the reference calls it."""

    def __init__(self) -> None:
        self.rows = self.labels = 0
        self.calls: list[bool] = []

    def __call__(self, seen: Any, compute_result: bool) -> dict[str, int]:
        assert isinstance(seen.predictions, torch.Tensor)
        order = torch.arange(self.rows + 1, self.rows + 1 + len(seen.label_ids))
        self.labels += int((torch.where(seen.label_ids == -100, 0, seen.label_ids).sum(1) * order).sum())
        self.rows += len(seen.label_ids)
        self.calls.append(compute_result)
        return {"rows": self.rows, "labels": self.labels}


def figures(ranks: Ranks, counts: Sequence[int], *, per_device: int) -> dict[str, Any]:
    """Everything that must not depend on how many processes there are."""
    # One width for all, so that a row's scores do not depend on the rows beside it.
    share = {"per_device": per_device, "rank": ranks.rank, "world_size": ranks.world_size, "multiple": 8}
    sets = {f"set{count}": RankBatches(rows=documents(count), **share) for count in counts}
    prepared = ranks.prepare(model())
    at_once = ComputeMetrics(function=shapes_and_sums, include=("inputs", "loss"), accumulation_steps=2)
    everything = Evaluator(OBJECTIVE, ranks, sets, metrics=metrics(), compute=at_once)(prepared)
    streaming = Evaluator(OBJECTIVE, ranks, sets, metrics=metrics())(prepared)
    loss_only = Evaluator(OBJECTIVE, ranks, sets)(prepared)
    by_batch = Evaluator(
        OBJECTIVE, ranks, {}, compute=ComputeMetrics(function=Counting(), batch_eval=True)
    ).loop(prepared, next(iter(sets.values())))
    whole = Evaluator(OBJECTIVE, ranks, {}).loop(prepared, next(iter(sets.values())), keep=True)
    return {
        "everything": untimed(everything),
        "streaming": untimed(streaming),
        "loss_only": untimed(loss_only),
        "by_batch": by_batch.metrics,
        "num_samples": whole.num_samples,
        "labels": whole.label_ids.tolist(),
        "scores": whole.predictions.tolist(),
    }


def untimed(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.endswith(("_runtime", "_per_second"))}


if __name__ == "__main__":
    torch.set_num_threads(1)
    machine = Ranks(use_cpu=True)
    assert machine.world_size == int(os.environ["WORLD_SIZE"])
    found = [
        figures(machine, json.loads(sys.argv[1]), per_device=2),
        figures(machine, json.loads(sys.argv[2]), per_device=2),
    ]
    assert machine.gather(found) == [found] * machine.world_size, "every rank has the same"
    if machine.is_main:
        print(json.dumps(found))
    machine.close()
