"""Adafactor, and the schedule that reports the rates it finds itself (main_classes/optimizer_schedules)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from trainer.optimizers import adafactor_options
from trainer.optimizers.builder import ByClass
from trainer.optimizers.per_parameter import PerParameterOptimizer, widened


class Adafactor(PerParameterOptimizer):
    """Adam whose second moment of a matrix is a row and a column (Shazeer and Stern 2018, arXiv:1804.04235).

    Arguments and defaults are the reference's. ``eps``: what is added to squared gradients, and the least
    scale of a parameter. ``lr`` and ``relative_step`` exclude each other: with the latter each group's "lr"
    is the rate of its last update, before ``scale_parameter`` makes it relative to the root mean square of
    each parameter. Weights of 16 bits are updated in fp32. ``ValueError`` for arguments that contradict each
    other.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | None = None,
        eps: tuple[float, ...] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        *,
        in_backward: bool = False,
    ) -> None:
        if lr is not None and relative_step:
            raise ValueError("lr: relative_step finds it; give relative_step=False with it, or leave it out.")
        if lr is None and not relative_step:
            raise ValueError("lr: it is needed without relative_step.")
        if warmup_init and not relative_step:
            raise ValueError("warmup_init: it is for relative_step; set that too or leave it out.")
        defaults = {
            "lr": relative_step_size(1, warmup_init) if lr is None else lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
        }
        super().__init__(params, defaults, in_backward=in_backward)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        weights = widened(parameter)
        state["step"] = state.get("step", 0) + 1
        if group["relative_step"]:
            group["lr"] = relative_step_size(state["step"], group["warmup_init"])
        if group["scale_parameter"]:
            state["RMS"] = _root_mean_square(weights)
        rate = _rate(group, state)
        change = self.change(widened(grad), state, group, rate)
        if group["weight_decay"]:
            weights.mul_(1.0 - group["weight_decay"] * rate)
        weights.sub_(change)
        if weights is not parameter:
            parameter.copy_(weights)

    def change(
        self, grad: Tensor, state: dict[str, Any], group: dict[str, Any], rate: float | Tensor
    ) -> Tensor:
        """What is to be taken from the weights, but for their decay."""
        squared = grad.square() + group["eps"][0]
        kept = 1.0 - math.pow(state["step"], group["decay_rate"])
        change = grad * _inverse_root(squared, state, kept)
        change.div_((_root_mean_square(change) / group["clip_threshold"]).clamp_(min=1.0))
        change.mul_(rate)
        beta1 = group["beta1"]
        if beta1 is None:
            return change
        return _moving_average(state, "exp_avg", change, beta1)

    def last_rate(self, group: dict[str, Any]) -> float | None:
        """The rate by which the group's first parameter was last updated; None before it was."""
        state = self.state.get(group["params"][0], {})
        return float(_rate(group, state)) if "step" in state else None


class AdafactorSchedule(LambdaLR):
    """Reports the rate that Adafactor found for each group's first parameter; it sets none.

    Before the first update that is ``initial_lr``.
    """

    def __init__(self, optimizer: Adafactor, initial_lr: float = 0.0) -> None:
        self.initial_lr = initial_lr
        for group in optimizer.param_groups:
            group["initial_lr"] = initial_lr
        super().__init__(optimizer, lambda _: 1.0)
        for group in optimizer.param_groups:
            del group["initial_lr"]

    def get_lr(self) -> list[float | Tensor]:
        assert isinstance(self.optimizer, Adafactor)
        rates = [self.optimizer.last_rate(group) for group in self.optimizer.param_groups]
        return [self.initial_lr if rate is None else rate for rate in rates]


def get_adafactor_schedule(optimizer: Adafactor, initial_lr: float = 0.0) -> AdafactorSchedule:
    """The schedule for an Adafactor with ``relative_step``, which finds its rates itself."""
    return AdafactorSchedule(optimizer, initial_lr)


@ByClass
def adafactor(options: adafactor_options.Adafactor) -> tuple[type[Adafactor], dict[str, Any]]:
    return Adafactor, adafactor_arguments(options)


def adafactor_arguments(options: adafactor_options.Adafactor) -> dict[str, Any]:
    """The arguments of ``Adafactor`` that the options say."""
    return {
        "lr": None if options.relative_step else options.learning_rate,
        "eps": options.eps,
        "clip_threshold": options.clip_threshold,
        "decay_rate": options.decay_rate,
        "beta1": options.beta1,
        "scale_parameter": options.scale_parameter,
        "relative_step": options.relative_step,
        "warmup_init": options.warmup_init,
    }


def relative_step_size(step: int, warmup_init: bool) -> float:
    """The rate of update ``step``, counted from 1: the inverse root of it, at first held down."""
    return min(1e-6 * step if warmup_init else 1e-2, 1.0 / math.sqrt(step))


def _rate(group: dict[str, Any], state: dict[str, Any]) -> float | Tensor:
    if group["relative_step"]:
        size = relative_step_size(state["step"], group["warmup_init"])
    else:
        size = group["lr"]
    return state["RMS"].clamp(min=group["eps"][1]) * size if group["scale_parameter"] else size


def _inverse_root(squared: Tensor, state: dict[str, Any], kept: float) -> Tensor:
    """One over the root of the second moment, after it took in ``squared`` and kept ``kept`` of itself."""
    if squared.ndim < 2:
        return _moving_average(state, "exp_avg_sq", squared, kept).rsqrt()
    row = _moving_average(state, "exp_avg_sq_row", squared.mean(dim=-1), kept)
    column = _moving_average(state, "exp_avg_sq_col", squared.mean(dim=-2), kept)
    row_factor = (row / row.mean(dim=-1, keepdim=True)).rsqrt_()
    return row_factor.unsqueeze(-1) * column.rsqrt().unsqueeze(-2)


def _moving_average(state: dict[str, Any], name: str, value: Tensor, kept: float) -> Tensor:
    if name not in state:
        state[name] = torch.zeros_like(value)
    average: Tensor = state[name]
    return average.mul_(kept).add_(value, alpha=1.0 - kept)


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.norm(2) / math.sqrt(tensor.numel())
