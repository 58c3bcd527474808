"""Whether a folder holds a tokenizer, told by its files and without the library that reads them."""

from __future__ import annotations

from pathlib import Path

# Names under which sentencepiece models lie in the folders of families.
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
# The files of a vocabulary that a tokenizer can be built around, those of one together.
VOCABULARIES = (*((name,) for name in SENTENCEPIECE_FILES), ("vocab.txt",), ("vocab.json", "merges.txt"))


def has_tokenizer(folder: str | Path) -> bool:
    """Whether ``Tokenizer.load`` finds a ``tokenizer.json`` or a vocabulary in ``folder``."""
    return any(
        all(Path(folder, name).is_file() for name in names) for names in (("tokenizer.json",), *VOCABULARIES)
    )
