"""Documents side by side, padded to one length.

Shapes: B documents, T tokens of the longest, rounded up if asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from collators.labels import IGNORED, Document, labels_of
from collators.options import LanguageModeling


class DataCollatorForLanguageModeling:
    """Pads documents for causal language modeling.

    The batch: ``input_ids``, ``attention_mask`` (1 where a document's token is) and ``labels`` (-100 in the
    padding too), all (B, T) int64. Labels are not shifted; a document's first is -100. ``tokenizer`` gives
    ``pad_token_id``. Source: the reference's data collator page.
    """

    def __init__(self, options: LanguageModeling | None = None, *, tokenizer: Any):
        self.options = options or LanguageModeling()
        # a tokenizer without a padding token is no obstacle: what fills the padding is never looked at
        self.pad_token_id: int = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __call__(self, documents: Sequence[Document]) -> dict[str, torch.Tensor]:
        lengths = [len(document["input_ids"]) for document in documents]
        multiple = self.options.pad_to_multiple_of or 1
        shape = (len(documents), -(-max(lengths) // multiple) * multiple)
        input_ids = np.full(shape, self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
            start = 0 if self.options.padding_side == "right" else shape[1] - length
            input_ids[row, start : start + length] = document["input_ids"]
            attention_mask[row, start : start + length] = 1
            labels[row, start : start + length] = labels_of(document["input_ids"], document["loss_mask"])
            labels[row, start] = IGNORED
        columns = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        return {name: torch.from_numpy(values) for name, values in columns.items()}
