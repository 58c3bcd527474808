"""Small caches whose documents say who they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from processors import RowError
from trainer.data.cache import TokenRows, write_once


@pytest.fixture
def make_rows(tmp_path: Path) -> Callable[..., TokenRows]:
    """``make_rows(lengths, name=..., masks=...)``: document i is its number repeated, from line i + 1."""

    def make(
        lengths: Sequence[int], name: str = "a", masks: Sequence[Sequence[int]] | None = None
    ) -> TokenRows:
        def fill(writer):
            for number, length in enumerate(lengths):
                mask = np.ones(length, np.uint8) if masks is None else np.array(masks[number], np.uint8)
                document = {"input_ids": np.full(length, number, np.int32), "loss_mask": mask}
                writer.add(document, f"{name}.jsonl", number + 1)
            return {}

        write_once(tmp_path / "cache" / name, fill)
        return TokenRows(tmp_path / "cache" / name)

    return make


@dataclass(frozen=True)
class Seen:
    rows: int = 0


class Letters:
    """A format of rows ``{"text": ...}``: each letter is a token, each word a document; "_" is no target.

    A text with "!" in it is a bad row.
    """

    def __init__(self) -> None:
        self.seen = 0

    def encode_batch(self, rows: Sequence[Mapping[str, str]]) -> list[list[dict[str, np.ndarray]]]:
        for index, row in enumerate(rows):
            if "!" in row["text"]:
                raise RowError("nobody may shout.", index)
        self.seen += len(rows)
        return [[self._document(word) for word in row["text"].split()] for row in rows]

    def _document(self, word: str) -> dict[str, np.ndarray]:
        mask = [letter != "_" for letter in word]
        return {
            "input_ids": np.array([ord(c) for c in word], np.int32),
            "loss_mask": np.array(mask, np.uint8),
        }

    def report(self) -> Seen:
        return Seen(self.seen)


@pytest.fixture
def letters() -> Letters:
    return Letters()
