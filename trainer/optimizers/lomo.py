"""LOMO and AdaLomo, which keep neither gradients nor, of AdaLomo's second moment, more than its margins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from trainer.optimizers import lomo_options
from trainer.optimizers.adafactor import Adafactor
from trainer.optimizers.builder import ByClass
from trainer.optimizers.per_parameter import PerParameterOptimizer, widened


class Lomo(PerParameterOptimizer):
    """SGD in the backward pass (Lv et al. 2023, arXiv:2306.09782); weights of 16 bits are updated in fp32."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip_grad_value: float | None = None,
    ) -> None:
        self.clip_grad_value = clip_grad_value
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, in_backward=True)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        weights = widened(parameter)
        weights.mul_(1.0 - group["lr"] * group["weight_decay"])
        weights.sub_(_cut(widened(grad), self.clip_grad_value), alpha=group["lr"])
        if weights is not parameter:
            parameter.copy_(weights)


class AdaLomo(Adafactor):
    """Adafactor in the backward pass with rates relative to the weights (Lv et al. 2023, arXiv:2310.10195).

    The root mean square of each parameter is what its rate is relative to.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        eps: tuple[float, ...] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        weight_decay: float = 0.0,
        clip_grad_value: float | None = None,
    ) -> None:
        self.clip_grad_value = clip_grad_value
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            weight_decay=weight_decay,
            scale_parameter=True,
            relative_step=False,
            in_backward=True,
        )

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        super().update(parameter, _cut(grad, self.clip_grad_value), state, group)


@ByClass
def lomo(options: lomo_options.Lomo) -> tuple[type[Lomo], dict[str, Any]]:
    return Lomo, {"lr": options.learning_rate, "clip_grad_value": options.clip_grad_value}


@ByClass
def adalomo(options: lomo_options.AdaLomo) -> tuple[type[AdaLomo], dict[str, Any]]:
    return AdaLomo, {
        "lr": options.learning_rate,
        "eps": options.eps,
        "clip_threshold": options.clip_threshold,
        "decay_rate": options.decay_rate,
        "clip_grad_value": options.clip_grad_value,
    }


def _cut(grad: Tensor, value: float | None) -> Tensor:
    return grad if value is None else grad.clamp(-value, value)
