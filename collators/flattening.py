"""Documents end to end in one row: no padding, and attention kept inside each document by its borders.

Shapes: N tokens of all documents together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from collators.labels import Document, labels_of
from collators.options import Flattening


class DataCollatorWithFlattening:
    """Concatenates documents into one row for models that take packed sequences.

    The batch: ``input_ids`` and ``labels`` (1, N) int64, ``position_ids`` (1, N) int64 from 0 in each
    document, ``cu_seqlens`` (documents + 1,) int32, where each document begins and the last ends. Labels are
    not shifted; a document's first is ``separator_id``. Source: the reference's data collator page.
    """

    def __init__(self, options: Flattening | None = None, *, tokenizer: Any = None):
        self.options = options or Flattening()

    def __call__(self, documents: Sequence[Document]) -> dict[str, torch.Tensor]:
        lengths = [len(document["input_ids"]) for document in documents]
        borders = np.zeros(len(documents) + 1, dtype=np.int32)
        np.cumsum(lengths, out=borders[1:])
        starts = borders[:-1]
        input_ids = np.concatenate([document["input_ids"] for document in documents]).astype(np.int64)
        labels = labels_of(input_ids, np.concatenate([document["loss_mask"] for document in documents]))
        labels[starts] = self.options.separator_id
        position_ids = np.arange(borders[-1], dtype=np.int64) - np.repeat(starts, lengths)
        columns = {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
        batch = {name: torch.from_numpy(values)[None] for name, values in columns.items()}
        return batch | {"cu_seqlens": torch.from_numpy(borders)}
