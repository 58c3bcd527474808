"""Typed options of the objectives, free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CausalLMOptions:
    """Next-token prediction; which tokens count is in the data.

    ``expert_bias_update_rate``: in a model with experts, how far each update moves the bias of an expert that
    got fewer or more tokens than the mean (Wang et al., 2024); 0 leaves the biases alone, and those
    of a frozen router stay. None is 0.001 there and the only choice for a model without.
    """

    expert_bias_update_rate: float | None = None

    def __post_init__(self) -> None:
        rate = self.expert_bias_update_rate
        if rate is not None and not 0 <= rate < math.inf:
            raise ValueError(f"expert_bias_update_rate: must be a number from 0, got {rate}")
