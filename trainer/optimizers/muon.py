"""Muon for hidden matrices and AdamW for all other weights, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.options import Muon
from trainer.optimizers.torch import adam_arguments


class MuonWithAdamW(torch.optim.Optimizer):
    """Lets torch's Muon step over the groups of role "targeted", and AdamW over all others.

    ``muon`` and ``adam`` are the arguments of the two classes. Both work on the groups and the state of this
    one, so that a schedule, a checkpoint and ``zero_grad`` see a single optimizer.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, muon: dict[str, Any], adam: dict[str, Any]):
        self._parts: dict[bool, torch.optim.Optimizer] = {}
        groups = list(groups)
        for is_targeted, cls, arguments in ((True, torch.optim.Muon, muon), (False, torch.optim.AdamW, adam)):
            members = [group for group in groups if _is_targeted(group) == is_targeted]
            if members:
                self._parts[is_targeted] = cls(members, **arguments)
        made = [group for part in self._parts.values() for group in part.param_groups]
        super().__init__(made, defaults={"lr": adam["lr"]})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for is_targeted, part in self._parts.items():
            # Anew each time: loading a state puts others in their place.
            part.param_groups = [group for group in self.param_groups if _is_targeted(group) == is_targeted]
            part.state = self.state
            part.step()
        return loss


@ByClass
def muon(options: Muon) -> Choice:
    orthogonal = {
        "lr": options.learning_rate,
        "momentum": options.momentum,
        "nesterov": options.nesterov,
        "ns_steps": options.ns_steps,
        "ns_coefficients": options.ns_coefficients,
        "adjust_lr_fn": options.adjust_lr_fn,
    }
    return MuonWithAdamW, {"muon": orthogonal, "adam": adam_arguments(options)}


def _is_targeted(group: dict[str, Any]) -> bool:
    return group.get("role") == "targeted"
