"""Bare torch: one step of a plain Llama and nothing else. ``bare_torch.py FOLDER ROWS TOKENS``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.benchmarks.children.plain_llama import PlainLlama
from scripts.benchmarks.children.report import StepClock


def main() -> None:
    folder, rows, tokens = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    clock = StepClock()
    model = PlainLlama(json.loads((folder / "config.json").read_text()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = np.load(folder / "input_ids.npy", mmap_mode="r")[: rows * tokens].astype(np.int64)
    step(model, optimizer, torch.from_numpy(ids).view(rows, tokens))
    clock.on_step_end(None, None, None)
    clock.on_train_end(None, None, None)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:
    """One update from a batch (B, T) whose tokens are all targets; returns the loss."""
    logits = model(batch)[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


main()
