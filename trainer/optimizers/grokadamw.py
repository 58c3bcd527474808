"""GrokAdamW of the package grokadamw."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from trainer.optimizers.builder import ByClass, Choice
from trainer.optimizers.package_options import GrokAdamW as Options
from trainer.optimizers.torch import adam_arguments

if TYPE_CHECKING:
    from grokadamw import GrokAdamW as PackageGrokAdamW
else:
    _root = logging.getLogger()
    _before = _root.level, _root.handlers[:]
    from grokadamw import GrokAdamW as PackageGrokAdamW

    # Importing it sets up the logging of the whole program, which is not for a package to do.
    _root.level, _root.handlers[:] = _before


class GrokAdamW(PackageGrokAdamW):
    """The package's, with its state where torch's optimizers have it, so that it is saved."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        for group in self.param_groups:
            group["state"] = self.state
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it asks for an autocast by its old name, on the CPU too
                return super().step(closure)
        finally:
            for group in self.param_groups:
                del group["state"]

    def note_losses(self, train_loss: float, eval_loss: float) -> None:
        """The newest losses; the further the second is above the first, the less the slow mean remembers."""
        for group in self.param_groups:
            group["train_loss"], group["eval_loss"] = train_loss, eval_loss


@ByClass
def grokadamw(options: Options) -> Choice:
    return GrokAdamW, {
        **adam_arguments(options),
        "alpha_init": options.alpha_init,
        "lamb": options.lamb,
        "gamma": options.gamma,
        "grokking_signal_decay_rate": options.grokking_signal_decay_rate,
        "gradient_clipping": options.gradient_clipping,
    }
