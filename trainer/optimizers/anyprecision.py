"""AdamW with states in types of their own, and Kahan summation for weights of few bits.

The arithmetic is fp32 throughout: states and weights are rounded to their types only where they are kept. So
without Kahan summation, in fp32, it is AdamW; with it, what rounding took from a weight is kept and added to
the weight's next update (Kahan 1965; for training: Zamirai et al. 2020, arXiv:2010.06192).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.options import AdamWAnyPrecision
from trainer.optimizers.torch import adam_arguments

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class AnyPrecisionAdamW(torch.optim.Optimizer):
    """AdamW; states lie in ``momentum_dtype``, ``variance_dtype`` and ``compensation_buffer_dtype``.

    Arguments and defaults are those of the class of this name that the reference takes (torchdistx).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        use_kahan_summation: bool = False,
        momentum_dtype: torch.dtype = torch.float32,
        variance_dtype: torch.dtype = torch.float32,
        compensation_buffer_dtype: torch.dtype = torch.bfloat16,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.use_kahan_summation = use_kahan_summation
        self.momentum_dtype = momentum_dtype
        self.variance_dtype = variance_dtype
        self.compensation_buffer_dtype = compensation_buffer_dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._add(parameter, self._update(parameter, group))
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """What is to be added to a parameter, in fp32; its moments take in its gradient."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=self.momentum_dtype)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=self.variance_dtype)
            if self.use_kahan_summation:
                state["compensation"] = torch.zeros_like(parameter, dtype=self.compensation_buffer_dtype)
        state["step"] += 1
        (beta1, beta2), gradient = group["betas"], parameter.grad.float()  # type: ignore[union-attr]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        root = square.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        update = mean.div(root).mul_(-group["lr"] / (1 - beta1 ** state["step"]))
        return update.add_(parameter, alpha=-group["lr"] * group["weight_decay"])

    def _add(self, parameter: Tensor, update: Tensor) -> None:
        """Add ``update``; with Kahan summation what rounding takes from it stays for the next."""
        if not self.use_kahan_summation:
            parameter.copy_(parameter + update)
            return
        compensation = self.state[parameter]["compensation"]
        update.add_(compensation)
        before = parameter.clone()
        parameter.copy_(parameter + update)
        compensation.copy_(update.sub_(parameter.float() - before.float()))


@ByClass
def adamw(options: AdamWAnyPrecision) -> Choice:
    return AnyPrecisionAdamW, {
        **adam_arguments(options),
        "use_kahan_summation": options.use_kahan_summation,
        "momentum_dtype": TYPES[options.momentum_dtype],
        "variance_dtype": TYPES[options.variance_dtype],
        "compensation_buffer_dtype": TYPES[options.compensation_buffer_dtype],
    }
