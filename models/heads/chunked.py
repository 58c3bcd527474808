"""A linear layer followed by cross-entropy, in chunks of tokens, so that the full logits never exist.

With V words and N tokens the logits, their softmax and their gradient would take 3 x N x V numbers. Here one
buffer of a bounded number of bytes serves them all, chunk after chunk, and ignored tokens are left out first.
Shapes: N tokens, n supervised tokens, c tokens of one chunk, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
CHUNK_BYTES = 64 * 2**20  # of one chunk's logits; fewer cost more passes over the weight's gradient
CHUNK_TOKENS = 1024  # beyond these, larger chunks only fall out of the processor's caches


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    *,
    bias: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Sum over tokens of -log softmax(hidden @ weight.T + bias)[label], as a scalar in fp32 or wider.

    hidden (..., D), weight (V, D), bias (V), labels (...) already aligned with hidden; -100 is ignored, and
    without any other label the sum is exactly 0 with zero gradients. The gradients are computed along with
    the value, summed in fp32; therefore it can be back-propagated only once.

    With ``smoothing`` e each token gives (1 - e) times that plus e times the mean of -log softmax over the
    vocabulary (label smoothing: Szegedy et al., 2015).
    """
    return _NLL.apply(hidden, weight, bias, labels, _plan(hidden, weight, bias, chunk_bytes, smoothing))


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[label] of each token, in fp32 or wider; 0 at -100.

    hidden (..., D), weight (V, D), bias (V), labels (...) -> (...). The backward pass computes the logits
    again.
    """
    return _LogProbs.apply(hidden, weight, bias, labels, _plan(hidden, weight, bias, chunk_bytes))


def supervised(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (n, D) and labels (n) of the supervised tokens among (..., D) and (...).

    What is left out has no influence at all on what is computed from the rest, not even a NaN.
    """
    rows = (labels.flatten() != IGNORED).nonzero().squeeze(-1)
    return hidden.flatten(0, -2).index_select(0, rows), labels.flatten()[rows]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which gradients will be asked for, the type to multiply in, a chunk's bytes, and label smoothing."""

    for_hidden: bool
    for_weight: bool
    for_bias: bool
    compute: torch.dtype
    chunk_bytes: int
    smoothing: float


def _plan(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk_bytes: int, smoothing: float = 0.0
) -> _Plan:
    recording, device = torch.is_grad_enabled(), hidden.device.type
    if torch.is_autocast_enabled(device):
        compute = torch.get_autocast_dtype(device)
    else:
        compute = torch.promote_types(hidden.dtype, weight.dtype)
    return _Plan(
        for_hidden=recording and hidden.requires_grad,
        for_weight=recording and weight.requires_grad,
        for_bias=recording and bias is not None and bias.requires_grad,
        compute=compute,
        chunk_bytes=chunk_bytes,
        smoothing=smoothing,
    )


class _Chunks:
    """The supervised tokens of a batch, chunk by chunk over one buffer, and gradients summed over them."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, plan: _Plan):
        self.whole_hidden, self.whole_weight, self.bias = hidden, weight, bias
        labels = labels.reshape(-1)
        self.rows = (labels != IGNORED).nonzero().squeeze(-1)  # (n,)
        self.labels = labels[self.rows, None]  # (n, 1)
        self.hidden = hidden.reshape(-1, hidden.shape[-1])[self.rows].to(plan.compute)  # (n, D)
        self.weight = weight.to(plan.compute)
        self.wide = torch.promote_types(plan.compute, torch.float32)
        row_bytes = weight.shape[0] * self.wide.itemsize
        self.size = max(1, min(plan.chunk_bytes // row_bytes, CHUNK_TOKENS, len(self.rows)))
        self.plan = plan

    def logits(self) -> Iterator[tuple[slice, Tensor]]:
        """Each chunk's place among the supervised tokens, and its logits (c, V), overwritten by the next."""
        buffer = self.hidden.new_empty((self.size, self.weight.shape[0]))
        for start in range(0, len(self.rows), self.size):
            place = slice(start, min(start + self.size, len(self.rows)))
            logits = buffer[: place.stop - start]
            torch.mm(self.hidden[place], self.weight.T, out=logits)
            logits = logits.to(self.wide)
            if self.bias is not None:
                logits += self.bias
            yield place, logits

    def normalize(self, place: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, in place, into probabilities (c, V); with the targets' log-probabilities (c, 1).

        The target is the label, or with smoothing a mixture of it and every word alike.
        """
        logits.sub_(logits.amax(dim=-1, keepdim=True))
        chosen = logits.gather(1, self.labels[place])
        if self.plan.smoothing:
            chosen.lerp_(logits.mean(dim=-1, keepdim=True), self.plan.smoothing)
        total = logits.exp_().sum(dim=-1, keepdim=True)
        return logits.div_(total), chosen - total.log()

    def start_gradients(self) -> None:
        """Make room for the gradients that the plan asks for."""
        self.grad_hidden = torch.empty_like(self.hidden) if self.plan.for_hidden else None
        self.grad_weight = (
            torch.zeros_like(self.whole_weight, dtype=self.wide) if self.plan.for_weight else None
        )
        self.grad_bias = torch.zeros_like(self.bias, dtype=self.wide) if self.plan.for_bias else None

    def add_gradients(self, place: slice, probabilities: Tensor, scale: Tensor | None = None) -> None:
        """Add those of -log(probability), each times ``scale`` (c, 1); overwrites ``probabilities``."""
        smoothing = self.plan.smoothing
        if smoothing:
            probabilities.sub_(smoothing / probabilities.shape[1])
        label_share = torch.full_like(probabilities[:, :1], smoothing - 1.0)
        probabilities.scatter_add_(1, self.labels[place], label_share)
        if scale is not None:
            probabilities.mul_(scale)
        if self.grad_bias is not None:
            self.grad_bias += probabilities.sum(dim=0)
        slopes = probabilities.to(self.plan.compute)  # (c, V)
        if self.grad_hidden is not None:
            torch.mm(slopes, self.weight, out=self.grad_hidden[place])
        if self.grad_weight is not None and self.wide == self.plan.compute:
            self.grad_weight.addmm_(slopes.T, self.hidden[place])
        elif self.grad_weight is not None:
            self.grad_weight += slopes.T @ self.hidden[place]

    def gradients(self) -> list[Tensor | None]:
        """Those of hidden, ignored tokens included, of the weight and of the bias, in their types."""
        hidden, weight, bias = self.grad_hidden, self.grad_weight, self.grad_bias
        if hidden is not None:
            whole = torch.zeros_like(self.whole_hidden, memory_format=torch.contiguous_format)
            whole.view(-1, hidden.shape[-1])[self.rows] = hidden.to(whole.dtype)
            hidden = whole
        weight = None if weight is None else weight.to(self.whole_weight.dtype)
        return [hidden, weight, None if bias is None else bias.to(self.bias.dtype)]


class _NLL(torch.autograd.Function):
    """Value and gradients in one pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, plan: _Plan
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            chunks = _Chunks(hidden, weight, bias, labels, plan)
            chunks.start_gradients()
            loss = torch.zeros((), dtype=chunks.wide, device=hidden.device)
            for place, logits in chunks.logits():
                probabilities, log_probs = chunks.normalize(place, logits)
                loss -= log_probs.sum()
                if plan.for_hidden or plan.for_weight or plan.for_bias:
                    chunks.add_gradients(place, probabilities)
            ctx.grads = chunks.gradients()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError(
                "linear_nll was back-propagated before; its gradients are handed over only once"
            )
        grads, ctx.grads = ctx.grads, None
        return (*(None if g is None else g.mul_(grad) for g in grads), None, None)


class _LogProbs(torch.autograd.Function):
    """Log-probabilities of the labels; keeps no logits, the backward pass makes them again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, plan: _Plan
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            chunks = _Chunks(hidden, weight, bias, labels, plan)
            log_probs = torch.zeros(labels.numel(), dtype=chunks.wide, device=hidden.device)
            for place, logits in chunks.logits():
                log_probs[chunks.rows[place]] = chunks.normalize(place, logits)[1].squeeze(-1)
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.plan = plan
        return log_probs.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            chunks = _Chunks(hidden, weight, bias, labels, ctx.plan)
            chunks.start_gradients()
            scale = -grad.reshape(-1, 1)[chunks.rows]
            for place, logits in chunks.logits():
                chunks.add_gradients(place, chunks.normalize(place, logits)[0], scale[place])
            return (*chunks.gradients(), None, None)
