"""Two processes over gloo train as one does, with every option that has to do with how many there are."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from models import AutoModelForCausalLM
from models.weights import checkpoint_names
from tests.trainer import rank_cases
from tests.trainer.saved_runs import digest, distance, lines
from trainer.data.batches import Batches

SCRIPT = Path(rank_cases.__file__)
AS_ONE = (
    "label smoothing",
    "group by length",
    "metrics",
    "tokens seen",
    "searching the batch size",
    "experts",
    *rank_cases.PROGRAMS,
)

# What depends on how rows were padded together; without a mask, as in the programs, padding counts as tokens.
PADDING = ("tokens_slots", "total_flos", "tokens_non_pad")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cases as two processes trained them, in one launch."""
    folder = tmp_path_factory.mktemp("two")
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
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=150)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)[-3000:]
    return folder


def facts_of(two: Path, name: str) -> list[dict[str, Any]]:
    """What both ranks know of a case; a failure of the test if one of them failed."""
    facts = json.loads((two / "facts.json").read_text())[name]
    for found in facts:
        assert isinstance(found, dict), found
    return facts


@pytest.mark.parametrize("name", AS_ONE)
def test_two_processes_train_as_one(two: Path, tmp_path: Path, name: str) -> None:
    first, second = facts_of(two, name)
    alone = rank_cases.train_case(name, tmp_path / "alone")
    assert distance(tmp_path / "alone", two / name) <= 1e-6
    told = zip(lines(two / name), lines(tmp_path / "alone"), strict=True)
    for line, expected in told:
        assert line.keys() == expected.keys()
        wanted = {key: value for key, value in expected.items() if key not in PADDING}
        assert {key: line[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
    if name in rank_cases.PROGRAMS:
        assert first == second, "every rank has all metrics and predictions"
        assert first["evaluation"] == pytest.approx(alone["evaluation"], rel=1e-5)
        assert first["labels"] == alone["labels"]
        said = (
            np.array(alone["labels"]) != -100
        )  # what is predicted at padding depends on who is in the batch
        predictions = [np.array(found["predictions"])[said] for found in (first, alone)]
        np.testing.assert_allclose(*predictions, rtol=1e-4, atol=1e-5)
        assert first["steps"] == 9
    else:
        assert first["tokens"] == second["tokens"] == alone["tokens"]


def test_one_rank_without_memory_makes_both_shrink(two: Path) -> None:
    found = [facts["micro-batch"] for facts in facts_of(two, "searching the batch size")]
    assert found == [1, 1], "each began with 2"


def test_an_overflow_on_one_rank_skips_the_update_on_both(two: Path, tmp_path: Path) -> None:
    alone = rank_cases.train_case("fp16 overflow", tmp_path / "alone")
    for facts in facts_of(two, "fp16 overflow"):
        assert (facts["updates"], facts["scale"]) == (3, 2.0**15)
    assert (alone["updates"], alone["scale"]) == (3, 2.0**15)
    norms = [line["grad_norm"] for line in lines(two / "fp16 overflow") if "loss" in line]
    assert [np.isfinite(norm) for norm in norms] == [True, False, True, True]
    assert distance(tmp_path / "alone", two / "fp16 overflow") <= 1e-3, "rounded in another order"


def test_noise_and_dropout_are_the_same_again_on_as_many_ranks(two: Path) -> None:
    facts_of(two, "NEFTune")
    facts_of(two, "NEFTune again")
    once, again = (two / name / "model.safetensors" for name in ("NEFTune", "NEFTune again"))
    assert digest(once) == digest(again)
    assert digest(once) != digest(two / "metrics/model.safetensors")


def test_each_rank_may_divide_by_its_own_tokens(two: Path, train: Any) -> None:
    """One step of plain SGD with a rate of 1 takes the mean of the ranks' own gradients off the weights."""
    facts_of(two, "rank averages")
    begin = train(*rank_cases.RECIPE, *rank_cases.ONE_STEP, "optimizer.learning_rate=0")
    assert begin.status == 0, begin.error
    model = AutoModelForCausalLM.from_pretrained(begin.folder)
    names = checkpoint_names(model)
    losses, counts = [], []
    for rank in range(2):
        batches = Batches(
            begin.run.batches.rows,
            begin.run.batches._collated.collator,
            seed=42,
            per_device_batch_size=2,
            rank=rank,
            world_size=2,
        )
        (batch,) = next(batches)
        labels = batch.pop("labels")[:, 1:]
        logits = model(batch).logits[:, :-1]
        losses.append(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100))
        counts.append(int((labels != -100).sum()))
    assert counts[0] != counts[1], "else both means are the same"
    loss = (losses[0] + losses[1]) / 2
    loss.backward()
    before, after = (
        load_file(begin.folder / "model.safetensors"),
        load_file(two / "rank averages/model.safetensors"),
    )
    step = torch.cat([(before[names[n]] - after[names[n]]).flatten() for n, _ in model.named_parameters()])
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (step - expected).norm() / expected.norm() <= 1e-5
    told = lines(two / "rank averages")[0]
    assert told["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert told["tokens_supervised"] == sum(counts)
    mean = sum(value.item() * count for value, count in zip(losses, counts, strict=True)) / sum(counts)
    assert abs(mean - loss.item()) > 1e-4 * mean
