"""Averages of the weights by name: what is evaluated and saved in place of the weights that are trained."""

from __future__ import annotations

CATALOG = {
    "none": ("trainer.averaging.options:NoAveraging", "trainer.averaging.averaging:no_averaging"),
    "ema": ("trainer.averaging.options:EMA", "trainer.averaging.ema:ExponentialMovingAverage"),
}
