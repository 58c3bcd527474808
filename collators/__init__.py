"""From a list of documents to one batch of tensors.

A collator is built as ``thing(options, tokenizer=...)`` and called with a list of documents (dicts of 1-D
arrays of equal length: ``input_ids``, and ``loss_mask``, 1 where a token is a target). A collator that draws
at random says so with an attribute ``random = True`` and pops from each document its ``sample_key``.
"""

from __future__ import annotations

from conf.plugins import lazy

CATALOG = {
    "flattening": ("collators.options:Flattening", "collators.flattening:DataCollatorWithFlattening"),
    "language_modeling": (
        "collators.options:LanguageModeling",
        "collators.language_modeling:DataCollatorForLanguageModeling",
    ),
}

_PUBLIC = {
    "DataCollatorForLanguageModeling": "collators.language_modeling",
    "DataCollatorWithFlattening": "collators.flattening",
    "Flattening": "collators.options",
    "LanguageModeling": "collators.options",
}
__getattr__ = lazy(__name__, _PUBLIC)
__all__ = ["CATALOG", *_PUBLIC]
