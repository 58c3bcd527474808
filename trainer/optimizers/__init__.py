"""Optimizers by name; a name has typed options (torch-free) and a function that builds it."""

from __future__ import annotations

CATALOG = {
    "adamw_torch": ("trainer.optimizers.options:AdamW", "trainer.optimizers.torch:adamw"),
    "adamw_torch_fused": ("trainer.optimizers.options:AdamW", "trainer.optimizers.torch:adamw_fused"),
    "sgd": ("trainer.optimizers.options:SGD", "trainer.optimizers.torch:sgd"),
}
