"""Weights from files into a model, ours or the reference's.

``load.py make FOLDER`` writes the checkpoints of ``CASES``; ``load.py ours|theirs FOLDER CASE`` loads one of
them, after a tiny one of the same family, so that nothing is imported while the clock runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scripts.benchmarks.children.report import report

LLAMA = {
    "vocab_size": 16_384, "hidden_size": 2_048, "intermediate_size": 5_632, "num_attention_heads": 16,
    "num_key_value_heads": 4,
}  # fmt: skip
AFMOE = {
    "vocab_size": 16_384, "hidden_size": 1_024, "intermediate_size": 2_816, "moe_intermediate_size": 1_024,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "num_experts": 32,
    "num_experts_per_tok": 4, "num_shared_experts": 1, "num_dense_layers": 1,
}  # fmt: skip
FILES = {  # name -> family, shape, number of layers, type, size of a shard
    "bf16": ("llama", LLAMA, 10, torch.bfloat16, "50GB"),
    "fp32": ("llama", LLAMA, 4, torch.float32, "200MB"),
    "experts": ("afmoe", AFMOE, 6, torch.bfloat16, "50GB"),
}
CASES = {  # name -> files, and the type that they are loaded in
    "bf16": ("bf16", torch.bfloat16),
    "fp32, shards": ("fp32", torch.float32),
    "bf16 to fp32": ("bf16", torch.float32),
    "experts": ("experts", torch.bfloat16),
}
PAGE = 4096


def main() -> None:
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
        return
    files, dtype = CASES[sys.argv[3]]
    folder = Path(sys.argv[2]) / files
    load: Callable[..., Any] = {"ours": ours, "theirs": theirs}[sys.argv[1]]
    write_each_page(load(folder / "tiny", dtype))
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    began = time.perf_counter()
    model = load(folder, dtype)
    called = time.perf_counter()
    write_each_page(model)
    ready = time.perf_counter()
    size = sum(tensor.nbytes for tensor in model.parameters())
    grown = (peak() - before) / size
    report({"seconds": ready - began, "call_seconds": called - began, "peak_over_size": grown})


def make(folder: Path) -> None:
    """Checkpoints of about 1 GB, and tiny ones beside them; the values do not matter."""
    import models

    for name, (family, shape, layers, dtype, max_shard_size) in FILES.items():
        tiny = {"num_hidden_layers": 2, "vocab_size": 64}
        for place, changes in (
            (folder / name, {"num_hidden_layers": layers}),
            (folder / name / "tiny", tiny),
        ):
            config = models.AutoConfig.for_model(family, **{**shape, **changes})
            model = models.build_model(config, "causal_lm", device="meta", dtype=dtype).to_empty(device="cpu")
            for parameter in model.parameters():
                parameter.data.fill_(0.01)
            model.save_pretrained(place, max_shard_size=max_shard_size)


def ours(folder: Path, dtype: torch.dtype) -> Any:
    import models

    return models.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def theirs(folder: Path, dtype: torch.dtype) -> Any:
    import transformers

    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


@torch.no_grad()
def write_each_page(model: Any) -> None:
    """What the first update of all weights needs: memory of the process's own, with the weights in it."""
    for parameter in model.parameters():
        parameter.view(-1)[:: PAGE // parameter.element_size()].mul_(1)


def peak() -> int:
    """The largest resident size, in bytes, since the mark was reset."""
    marks = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(marks.split()[0]) * 1024


main()
