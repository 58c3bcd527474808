"""Optimizers that update one parameter at a time, after the backward pass or within it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

LOW_PRECISION = (torch.float16, torch.bfloat16)


class PerParameterOptimizer(torch.optim.Optimizer):
    """Says when parameters are updated; a subclass says how, in ``update``.

    By itself ``step`` updates all. With ``in_backward`` each parameter is updated as soon as its gradient is
    complete, and the gradient is let go, so that the gradients of a model never lie in memory together (Lv et
    al. 2023, arXiv:2306.09782); ``step`` then does nothing. A gradient that is not finite is not applied, and
    makes ``take_grad_norm`` not finite, but the update of a parameter reached before is not taken back.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], *, in_backward: bool = False) -> None:
        self.in_backward = in_backward
        self._hooks: list[RemovableHandle] = []
        self._norms: list[Tensor] = []
        super().__init__(params, defaults)

    def update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change ``parameter`` in place; ``state`` is its own and holds tensors and plain values only."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a parameter is updated.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if not self.in_backward:
            return
        # A weak reference: a model that lives on must not keep an optimizer that nobody holds any more.
        hook = partial(_update_now, weakref.ref(self), len(self.param_groups) - 1)
        for parameter in self.param_groups[-1]["params"]:
            self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.in_backward:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self.update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    @torch.no_grad()
    def update_now(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter in the backward pass, and let its gradient go."""
        assert parameter.grad is not None
        grad, parameter.grad = parameter.grad, None
        norm = torch.linalg.vector_norm(grad, dtype=_wide(grad))
        self._norms.append(norm)
        if torch.isfinite(norm):
            self.update(parameter, grad, self.state[parameter], group)

    def take_grad_norm(self) -> float:
        """The norm of all gradients that backward passes gave since the last call; 0 if there were none."""
        norms, self._norms = self._norms, []
        if not norms:
            return 0.0
        return float(torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms])))

    def release(self) -> None:
        """Take the hooks off the parameters, which another optimizer may then train."""
        while self._hooks:
            self._hooks.pop().remove()


def widened(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy in fp32 if it is of 16 bits."""
    return tensor.to(_wide(tensor))


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in LOW_PRECISION else tensor.dtype


def _update_now(
    reference: weakref.ReferenceType[PerParameterOptimizer], index: int, parameter: Tensor
) -> None:
    if (optimizer := reference()) is not None:
        # By its place: loading a state puts other groups there.
        optimizer.update_now(parameter, optimizer.param_groups[index])
