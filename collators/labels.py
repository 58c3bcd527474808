"""From a loss mask to labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

IGNORED = -100  # the label that no loss counts

Document = Mapping[str, Any]


def labels_of(input_ids: np.ndarray, loss_mask: np.ndarray) -> np.ndarray:
    """``input_ids`` where ``loss_mask`` is 1 and -100 elsewhere, both (tokens,); int64.

    The first token of a document is the caller's to mark: nothing stands before it that could predict it.
    """
    return np.where(np.asarray(loss_mask, dtype=bool), input_ids, IGNORED).astype(np.int64, copy=False)
