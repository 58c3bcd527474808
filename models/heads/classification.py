"""Summed losses of scores against labels: of one class, of several classes, and of values.

Each comes with the number of items that it is summed over. Sums are in fp32 or wider.
Shapes: B sequences, L scores of each; ... any leading dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ProblemType
from models.heads.chunked import IGNORED


def class_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of scores (..., L) against classes (...), -100 being ignored."""
    labels = labels.flatten()
    total = F.cross_entropy(_wide(logits).flatten(0, -2), labels, ignore_index=IGNORED, reduction="sum")
    return total, (labels != IGNORED).sum()


def sequence_loss(
    logits: Tensor, labels: Tensor, problem_type: ProblemType | None
) -> tuple[Tensor, Tensor | int]:
    """The summed loss of scores (B, L) against classes (B), class marks (B, L) or values (B) or (B, L).

    Each mark and each value is an item. Without ``problem_type`` the loss is chosen as upstream does: one
    label is a regression, whole-number labels name a class, others mark several classes.
    """
    problem = problem_type or _problem_of(logits, labels)
    if problem == "single_label_classification":
        return class_loss(logits, labels)
    logits = _wide(logits)
    measure = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
    each = measure(logits, labels.view_as(logits).to(logits.dtype), reduction="none")
    return each.sum(), each.numel()


def _problem_of(logits: Tensor, labels: Tensor) -> ProblemType:
    if logits.shape[-1] == 1:
        return "regression"
    whole = labels.dtype in (torch.int64, torch.int32)
    return "single_label_classification" if whole else "multi_label_classification"


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
