"""Our whole ``Run`` against a hand-written loop over the same model, in blocks of steps that take turns.

``overhead.py STEPS ROUNDS WORD...``: the words are a command line of ``train.py``. The loop written by hand
gets its batches ready-made, ours makes them.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.benchmarks.children.report import report
from scripts.benchmarks.measure import Sample, run_rounds
from trainer import loop
from trainer.cli import run_command
from trainer.run import Run
from trainer.state import TrainerState

Train = Callable[[Run], TrainerState]
LEARNING_RATE = 1e-3


class HandWritten:
    """The same training without a framework."""

    def __init__(self, model: nn.Module, factor: Callable[[int], float], log: IO[str]):
        self.model, self.factor, self.log = model, factor, log
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.step = 0

    def train(self, batches: list[dict[str, Tensor]]) -> None:
        self.model.train()
        total = 0.0
        for batch in batches:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            targets = F.pad(batch["labels"][:, 1:], (0, 1), value=-100)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.model(inputs, compute=lambda head, hidden, targets=targets: head.nll(hidden, targets))
            loss = loss / int((targets != -100).sum())
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            rate = LEARNING_RATE * self.factor(self.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            total += loss.item()
            self.step += 1
            if self.step % 10 == 0:
                line = {
                    "step": self.step,
                    "loss": total / 10,
                    "learning_rate": rate,
                    "grad_norm": norm.item(),
                }
                print(json.dumps(line), file=self.log, flush=True)
                total = 0.0


def compare(run: Run, train: Train, steps: int, rounds: int) -> TrainerState:
    """Stands in for the loop: trains in blocks, each followed by one of the hand-written loop."""
    ready = copy.deepcopy(run.batches)
    rates: Any = run.rates  # of this recipe a factor of the updates made
    by_hand = HandWritten(copy.deepcopy(run.model), rates.factor, sys.stdout)
    run.state.max_steps = 0

    def ours() -> Sample:
        run.state.max_steps += steps
        run.control.should_training_stop = False
        return timed(lambda: train(run), steps)

    def theirs() -> Sample:
        batches = [batch for _ in range(steps) for batch in next(ready)]
        return timed(lambda: by_hand.train(batches), steps)

    contestants = {"ours": ours, "theirs": theirs}
    run_rounds(contestants, 1, spare=0)  # to warm up
    measured = run_rounds(contestants, rounds)
    pairs = zip(run.model.parameters(), by_hand.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the two loops did not train the same"
    report({"rounds": [asdict(each) for each in measured]})
    return run.state


def timed(act: Callable[[], object], steps: int) -> Sample:
    """Milliseconds a step."""
    began = time.perf_counter()
    act()
    return {"milliseconds": 1000 * (time.perf_counter() - began) / steps}


def main() -> None:
    steps, rounds, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    train = loop.train
    loop.train = lambda run: compare(run, train, steps, rounds)  # the command builds the run and calls this
    run_command(words)


main()
