"""The step of Adam that GaLore and APOLLO take, which is not quite torch's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def adam_direction(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The first moment over the root of the second, neither of them corrected for its start.

    The moments are in the gradient's type; ``adam_step_size`` makes the correction.
    """
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(grad), torch.zeros_like(grad)
    beta1, beta2 = group["betas"]
    first: Tensor = state["exp_avg"].mul_(beta1).add_(grad, alpha=1.0 - beta1)
    second: Tensor = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
    return first / second.sqrt().add_(group["eps"])


def adam_step_size(state: dict[str, Any], group: dict[str, Any]) -> float:
    """The rate of update ``state["step"]``, counted from 1, corrected for moments that began at 0."""
    beta1, beta2 = group["betas"]
    step = state["step"]
    return float(group["lr"] * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step))


def decay(parameter: Tensor, group: dict[str, Any]) -> None:
    """Weight decay, decoupled from the gradient; here it comes after the update."""
    if group["weight_decay"]:
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
