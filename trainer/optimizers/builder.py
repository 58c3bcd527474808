"""An optimizer that is one class with arguments, as most are: what makes it, and says of what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from trainer.optimizers.options import OptimizerOptions

Options = TypeVar("Options", bound=OptimizerOptions)
Choice = tuple[type[torch.optim.Optimizer], dict[str, Any]]


@dataclass(frozen=True)
class ByClass(Generic[Options]):
    """Decorates a function from options to a class and its arguments; called, it makes one over groups."""

    choose: Callable[[Options], Choice]

    def __call__(self, options: Options, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        cls, arguments = self.choose(options)
        return cls(groups, **arguments)
