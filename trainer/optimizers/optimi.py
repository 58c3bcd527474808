"""StableAdamW of the package torch-optimi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optimi
import torch
from optimi.utils import HAS_TRITON
from torch import Tensor

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.package_options import StableAdamW as Options
from trainer.optimizers.torch import adam_arguments


class StableAdamW(optimi.StableAdamW):
    """The package's, with Triton's kernels on GPUs alone and a state that can be saved.

    The package counts steps by a tensor in each group, and marks by a state of None that there is no
    compensation; between steps the count is the plain number ``updates`` here, and None need not be kept.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["triton"] is None:
            group["triton"] = HAS_TRITON and all(parameter.is_cuda for parameter in group["params"])
        group.update(setup=True, updates=0)

    @torch.no_grad()
    def step(self, closure: Callable | None = None, param: Tensor | None = None) -> Any:
        for group in self.param_groups:
            group["step"] = torch.tensor(group["updates"], dtype=torch.int32)
        loss = super().step(closure, param)
        for group in self.param_groups:
            group["updates"] = group.pop("step").item()
        return loss

    def _init_state(self, group: dict[str, Any], state: dict[Any, Any], param: Tensor) -> None:
        if "exp_avg" in state:
            state.setdefault("kahan_comp", None)
        super()._init_state(group, state, param)


@ByClass
def stable_adamw(options: Options) -> Choice:
    return StableAdamW, {
        **adam_arguments(options),
        "decouple_lr": options.decouple_lr,
        "max_lr": options.max_lr,
        "kahan_sum": options.kahan_sum,
    }
