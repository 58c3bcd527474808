"""What gradients and activations look like, by the names of parameters and modules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conf.errors import ConfigError
from conf.patterns import matching
from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class StatisticsCallback(TrainerCallback):
    """Adds figures of gradients and activations to the log, measured every ``every`` steps.

    Patterns are regular expressions for whole names. Of each pattern of ``parameters``
    (``.*q_proj\\.weight``; names as in a checkpoint, the trained ones): ``grad_norm/<pattern>``,
    ``grad_max/<pattern>`` (largest absolute value) and ``grad_zeros/<pattern>`` (share of zeros), of the
    gradient as the optimizer gets it, clipped. Of each pattern of ``activations``
    (``backbone\\.layers\\.0``; names of modules): ``activation_mean/<pattern>``,
    ``activation_std/<pattern>`` and ``activation_max/<pattern>`` of what those modules return while training,
    over the whole step; with several processes, of the main one. The figures stand in the next training line.
    Other steps cost nothing, no module is listened to in them. Raises ``ConfigError`` for a pattern that
    matches nothing, and where there are no gradients or modules to look at.
    """

    parameters: tuple[str, ...] = (".*",)
    activations: tuple[str, ...] = ()
    every: int = 100

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every: at least 1 step is wanted, {self.every} was given.")
        self.measured: dict[str, float] = {}  # not written yet
        self._hooks: list[Any] = []
        self._activations: dict[str, _Activation] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for pattern in self.parameters:
            _named(pattern, _trained(kwargs["optimizer"]), "parameters")
        for pattern in self.activations:
            _named(pattern, kwargs["model"].named_modules(), "activations")
        if self.activations and args.torch_compile:
            raise ConfigError(
                "callbacks.statistics.activations: a compiled model does not tell what its modules return; "
                "leave it out, or training.torch_compile."
            )

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not self._is_due(state.global_step + 1):
            return
        self._activations = {pattern: _Activation() for pattern in self.activations}
        for pattern, activation in self._activations.items():
            for module in _named(pattern, kwargs["model"].named_modules(), "activations").values():
                self._hooks.append(module.register_forward_hook(activation.add))

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._is_due(state.global_step + 1):
            return
        trained = _trained(kwargs["optimizer"])
        for pattern in self.parameters:
            parameters = _named(pattern, trained, "parameters").values()
            self.measured |= _of_gradients(pattern, [p.grad for p in parameters if p.grad is not None])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for pattern, activation in self._activations.items():
            self.measured |= activation.figures(pattern)
        self._activations = {}
        self.close()

    def log_values(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> dict[str, float]:
        if "loss" not in logs:
            return {}
        measured, self.measured = self.measured, {}
        return measured

    def close(self) -> None:
        """Listen to no module any longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"measured": self.measured}}

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0


@dataclass
class _Activation:
    """The moments of each output of some modules, kept on the device until the step is over."""

    seen: list[tuple[int, Any, Any, Any]] = field(default_factory=list)  # count, variance, mean, largest

    def add(self, module: Any, inputs: Any, output: Any) -> None:
        """A forward hook."""
        import torch

        tensor = _first_tensor(output)
        if tensor is not None and tensor.numel():
            values = tensor.detach().float()
            variance, mean = torch.var_mean(values, correction=0)
            self.seen.append((values.numel(), variance, mean, values.abs().max()))

    def figures(self, pattern: str) -> dict[str, float]:
        """Of all outputs together (Chan et al. 1983)."""
        if not self.seen:
            raise ConfigError(
                f"callbacks.statistics.activations: the modules that fit {pattern!r} were not called or "
                "returned no tensor; choose others."
            )
        moments = [(count, float(variance), float(mean)) for count, variance, mean, _ in self.seen]
        total = sum(count for count, _, _ in moments)
        mean = sum(count * own for count, _, own in moments) / total
        variance = sum(count * (own + (its - mean) ** 2) for count, own, its in moments) / total
        return {
            f"activation_mean/{pattern}": mean,
            f"activation_std/{pattern}": math.sqrt(variance),
            f"activation_max/{pattern}": max(float(largest) for *_, largest in self.seen),
        }


def _of_gradients(pattern: str, gradients: list[Any]) -> dict[str, float]:
    if not gradients:
        raise ConfigError(
            f"callbacks.statistics.parameters: nothing that fits {pattern!r} has a gradient when the "
            "optimizer is to step: choose others; an optimizer that updates in the backward pass leaves none."
        )
    norms = [float(gradient.float().norm()) for gradient in gradients]
    zeros = sum(int((gradient == 0).sum()) for gradient in gradients)
    return {
        f"grad_norm/{pattern}": math.hypot(*norms),
        f"grad_max/{pattern}": max(float(gradient.abs().max()) for gradient in gradients),
        f"grad_zeros/{pattern}": zeros / sum(gradient.numel() for gradient in gradients),
    }


def _trained(optimizer: Any) -> list[tuple[str, Any]]:
    """The parameters that are trained, by the names that checkpoints give them."""
    return [pair for g in optimizer.param_groups for pair in zip(g["param_names"], g["params"], strict=True)]


def _named(pattern: str, things: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """Those whose names the pattern matches; ``ConfigError`` where there are none."""
    known = dict(things)
    kind = {"parameters": "trained parameter", "activations": "module"}[option]
    found = matching(pattern, filter(None, known), f"callbacks.statistics.{option}", kind)
    return {name: known[name] for name in found}


def _first_tensor(output: Any) -> Any:
    """The tensor that a module returns, or the first of those in what it returns."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    values = (
        values if isinstance(output, Mapping | tuple | list) else getattr(output, "__dict__", {}).values()
    )
    return next((value for value in values if isinstance(value, torch.Tensor)), None)
