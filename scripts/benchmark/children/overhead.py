"""Our whole ``Run`` against a hand-written loop over the same model, in blocks of steps that take turns.

``overhead.py STEPS ROUNDS WORD...``: the words are a command line of ``train.py``. The loop written by hand gets
its batches ready-made; ours makes them.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf import compose
from scripts.benchmark.children.report import report
from scripts.benchmark.measure import Sample, run_rounds
from trainer import loop, run_folder
from trainer.build import Materials, build_run, make_batches
from trainer.cli import Command
from trainer.ranks.ranks import Ranks
from trainer.run import Run

LEARNING_RATE = 1e-3


class Build(Command):
    """A command on its way to a run that hands the run over instead of training it."""

    def train(self, materials: Materials) -> None:
        assert materials.folder is not None
        run_folder.open_folder(materials.folder, self.say)
        self.materials = materials
        self.run = build_run(materials, Ranks(use_cpu=True))


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
                line = {"step": self.step, "loss": total / 10, "learning_rate": rate, "grad_norm": norm.item()}
                print(json.dumps(line), file=self.log, flush=True)
                total = 0.0


def main() -> None:
    steps, rounds = int(sys.argv[1]), int(sys.argv[2])
    composed = compose.compose(sys.argv[3:])
    assert composed is not None
    build = Build(composed, (), {})
    build.carry_out()
    run = build.run
    run.state.max_steps = 0
    ready = make_batches(build.materials, run.objective, run.ranks)
    by_hand = HandWritten(copy.deepcopy(run.model), run.schedule, sys.stdout)

    def hand_written() -> Sample:
        batches = [batch for _ in range(steps) for batch in next(ready)]
        return timed(lambda: by_hand.train(batches), steps)

    contestants = {"ours": lambda: timed(lambda: ours(run, steps), steps), "theirs": hand_written}
    run_rounds(contestants, 1, tries=1)  # to warm up
    measured = run_rounds(contestants, rounds)
    pairs = zip(run.model.parameters(), by_hand.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the two loops did not train the same"
    report({"rounds": [asdict(each) for each in measured]})


def ours(run: Run, steps: int) -> None:
    """Go on for some steps."""
    run.state.max_steps += steps
    run.control.should_training_stop = False
    loop.train(run)


def timed(act: Callable[[], None], steps: int) -> Sample:
    """Milliseconds a step."""
    began = time.perf_counter()
    act()
    return {"milliseconds": 1000 * (time.perf_counter() - began) / steps}


main()
