"""Streaming metrics by name: what an evaluation measures beside the loss, without keeping predictions.

A metric has typed options (torch-free) and a class built as ``thing(options)`` that keeps the protocol
``trainer.metrics.metric.Metric``: it is updated batch by batch, and its small states are merged over ranks
and data sets at the end. A new one is one file here and one line below.
"""

from __future__ import annotations

CATALOG = {
    "accuracy": ("trainer.metrics.options:AccuracyOptions", "trainer.metrics.accuracy:Accuracy"),
    "perplexity": ("trainer.metrics.options:PerplexityOptions", "trainer.metrics.perplexity:Perplexity"),
}
