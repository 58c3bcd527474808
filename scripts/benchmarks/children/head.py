"""Linear layer and cross-entropy, forward and backward, for many words. ``head.py chunked|full REPEATS``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from models.heads.chunked import linear_nll
from scripts.benchmarks.children.report import report

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
VOCABULARY, HIDDEN, TOKENS = 128_256, 256, 2_048


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Our head: the logits of a chunk of tokens at a time."""
    return linear_nll(hidden, weight, labels) / len(labels)


def full(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """What one writes by hand: all logits at once."""
    return F.cross_entropy(F.linear(hidden, weight), labels)


def main() -> None:
    loss = {"chunked": chunked, "full": full}[sys.argv[1]]
    passes(loss, *inputs(vocabulary=64))  # threads and kernels get their memory before it is counted
    big = inputs(VOCABULARY)
    before = peak_after(lambda: None)
    peak = peak_after(lambda: passes(loss, *big))
    seconds = []
    for _ in range(int(sys.argv[2])):
        began = time.perf_counter()
        passes(loss, *big)
        seconds.append(time.perf_counter() - began)
    report({"peak_bytes": peak - before, "seconds": median(seconds)})


def inputs(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states (tokens, hidden), weight (vocabulary, hidden), labels (tokens,)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator, requires_grad=True)
    weight = torch.empty(vocabulary, HIDDEN).normal_(0, 0.02, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (TOKENS,), generator=generator)


def passes(loss: Loss, hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Forward and backward; the gradients are dropped, as an optimizer's ``zero_grad`` does."""
    loss(hidden, weight, labels).backward()
    hidden.grad = weight.grad = None


def peak_after(act: Callable[[], None]) -> int:
    """The largest resident size, in bytes, during ``act``; the kernel's own mark is reset before it."""
    Path("/proc/self/clear_refs").write_text("5")
    act()
    marks = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
    return int(marks.split()[0]) * 1024


main()
