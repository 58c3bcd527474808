"""State and peak memory of an optimizer over three updates of a Llama. ``optimizer.py NAME``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from conf.plugins import options_of, thing_of
from models.auto import build_model
from models.llama.config import LlamaConfig
from models.weights import checkpoint_names
from scripts.benchmarks.children.report import report
from trainer.optimizers import CATALOG
from trainer.optimizers.groups import parameter_groups
from trainer.optimizers.state import split_state

TARGETED = ("galore", "apollo")  # whose projections are for linear layers that are named
SHAPE: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
}


def main() -> None:
    name = sys.argv[1]
    targets = {"optim_target_modules": "all-linear", "rank": 128} if name.startswith(TARGETED) else {}
    options = options_of(CATALOG, name, "optimizer")(learning_rate=1e-4, **targets)
    model = build_model(LlamaConfig(**SHAPE), "causal_lm", dtype=torch.float32)
    make = thing_of(CATALOG, name, "optimizer")
    optimizer = make(options, parameter_groups(model, checkpoint_names(model), options))
    tokens = torch.randint(SHAPE["vocab_size"], (1, 64), generator=torch.Generator().manual_seed(0))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(3):
        logits = model(input_ids=tokens).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tensors, _ = split_state(optimizer)
    report(
        {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "weight_bytes": sum(parameter.nbytes for parameter in model.parameters()),
            "state_bytes": sum(tensor.nbytes for tensor in tensors.values()),
            "peak_bytes": _resident("VmHWM") - before,
        }
    )


def _resident(mark: str) -> int:
    """The resident size in bytes: now (``VmRSS``) or at most since the mark was cleared (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().partition(f"{mark}:")[2]
    return int(lines.split()[0]) * 1024


main()
