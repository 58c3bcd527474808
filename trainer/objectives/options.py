"""Typed options of the objectives, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CausalLMOptions:
    """Next-token prediction has no options of its own: which tokens count is in the data."""
