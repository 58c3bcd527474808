"""What the others train on: the documents of a recipe, and the shape of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conf import compose
from trainer.build import fitting
from trainer.cli import Command
from trainer.data.rows import RowSet
from trainer.prepare import model_config, prepare


@dataclass(frozen=True, kw_only=True)
class Material:
    """A folder with ``config.json`` and the documents, joined: ``input_ids``, ``loss_mask``, ``offsets``."""

    folder: Path
    documents: int
    tokens: int
    longest: int  # tokens
    rows: int  # packed


def write_material(words: Sequence[str], folder: Path) -> Material:
    """Write the prepared data of a ``train.py`` command line for others; its token cache is warm then."""
    composed = compose.compose(list(words))
    assert composed is not None, words
    config = Command(composed, (), {}).decode()
    prepared = prepare(config, print, judge=fitting)
    model_config(config, prepared.tokenizer).save_pretrained(folder)
    rows = RowSet(list(prepared.train.values()), capacity=config.data.max_length)
    documents = [source.document(index) for source in rows.sources for index in range(len(source))]
    lengths = np.array([len(document["input_ids"]) for document in documents])
    for name in ("input_ids", "loss_mask"):
        np.save(folder / f"{name}.npy", np.concatenate([document[name] for document in documents]))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    return Material(
        folder=folder,
        documents=len(documents),
        tokens=int(lengths.sum()),
        longest=int(lengths.max()),
        rows=len(rows),
    )
