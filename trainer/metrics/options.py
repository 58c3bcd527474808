"""Typed options of the metrics, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AccuracyOptions:
    """The share of right answers has no options: what counts as an answer is in the labels."""


@dataclass(frozen=True, kw_only=True)
class PerplexityOptions:
    """The exponential of the mean loss has no options."""
