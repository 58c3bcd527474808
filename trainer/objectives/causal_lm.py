"""Causal language modelling: predict each supervised token from those before it (pretraining, SFT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from models.heads.causal_lm import shift_labels
from models.heads.chunked import IGNORED
from trainer.objectives.objective import Batch, Loss
from trainer.objectives.options import CausalLMOptions


class CausalLM:
    """Summed negative log-likelihood of the labels, shifted by one; -100 is not counted.

    The term is called ``loss``; its weight is the number of supervised tokens.
    """

    head = "causal_lm"
    coefficients: ClassVar[Mapping[str, float]] = {"loss": 1.0}

    def __init__(self, options: CausalLMOptions):
        self.options = options

    def collator(self, *, packing: bool) -> str:
        return "flattening" if packing else "language_modeling"

    def weights(self, batch: Batch) -> Mapping[str, int]:
        # A document's first label is always ignored, and so nothing is lost by not looking at column 0.
        # Counted by numpy, which has less to set up than torch: the batch is still on the host.
        return {"loss": int(np.count_nonzero(batch["labels"].cpu().numpy()[:, 1:] != IGNORED))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        targets = shift_labels(batch["labels"])  # (B, T)
        inputs = {name: value for name, value in batch.items() if name != "labels"}

        def summed(head: Any, hidden: Tensor) -> Tensor:
            return head.nll(hidden, targets)

        return Loss(terms={"loss": model(inputs, compute=summed)})

    def after_update(self, model: nn.Module, state: Any) -> None:
        """Nothing to do."""
