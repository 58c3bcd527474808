"""AdamW with quantized states, of the package torchao.

On a GPU torch.compile makes one kernel of a parameter's step, which costs seconds for each shape of weights
at the first step. On the CPU, where that needs a C++ compiler, the same operations run one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torchao.optim

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.package_options import TorchAOAdamW
from trainer.optimizers.torch import adam_arguments


class _PlainRates(torch.optim.Optimizer):
    """Keeps learning rates as numbers, which schedules set; the package wants fp32 tensors in its step."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        rate = param_group.get("lr", self.defaults["lr"])
        super().add_param_group(param_group)
        self.param_groups[-1]["lr"] = rate

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        rates = [group["lr"] for group in self.param_groups]
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = torch.tensor(rate, dtype=torch.float32)
        try:
            with self._uncompiled():
                return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate

    def _uncompiled(self) -> AbstractContextManager[Any]:
        on_cpu = self.param_groups[0]["params"][0].device.type == "cpu"
        return torch.compiler.set_stance("force_eager") if on_cpu else nullcontext()


class AdamW8bit(_PlainRates, torchao.optim.AdamW8bit):
    """The package's, with plain learning rates."""


class AdamW4bit(_PlainRates, torchao.optim.AdamW4bit):
    """The package's, with plain learning rates."""


class AdamWFp8(_PlainRates, torchao.optim.AdamWFp8):
    """The package's, with plain learning rates."""


@ByClass
def adamw_8bit(options: TorchAOAdamW) -> Choice:
    return AdamW8bit, _arguments(options)


@ByClass
def adamw_4bit(options: TorchAOAdamW) -> Choice:
    return AdamW4bit, _arguments(options)


@ByClass
def adamw_fp8(options: TorchAOAdamW) -> Choice:
    return AdamWFp8, _arguments(options)


def _arguments(options: TorchAOAdamW) -> dict[str, Any]:
    return {
        **adam_arguments(options),
        "block_size": options.block_size,
        "bf16_stochastic_round": options.bf16_stochastic_round,
    }
