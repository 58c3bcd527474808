"""A folder without ``tokenizer.json``: which vocabulary it has, and the tokenizer built around it.

==============================  ====================================================================
``vocab.txt``                   WordPiece (BERT)
``vocab.json``, ``merges.txt``  BPE, byte-level or with byte fallback, as the tokenizer's class says
``*.model``                     sentencepiece, Unigram or BPE
==============================  ====================================================================
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers

from conf.errors import CheckpointError
from processors.folders import SENTENCEPIECE_FILES
from processors.tokenizers.families import FAMILIES, MODEL_TYPES, Family
from processors.tokenizers.kinds.pieces import Pieces, added_token, read_ids, read_lines, read_mapping
from processors.tokenizers.sentencepiece import SentencePieceModel

# Classes that say nothing about what is put around the vocabulary.
GENERIC = (None, "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend", "PythonBackend")


def build(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer around the folder's vocabulary; what the folder leaves unsaid is put into ``config``.

    ``CheckpointError`` without a vocabulary, or with one whose tokenizer class is not known here: its ids
    could be wrong without a sign.
    """
    found = _found(folder)
    name = class_of(folder, config)
    if name in GENERIC:
        if isinstance(found, SentencePieceModel):
            return _as_trained(found, config)
        name = "BertTokenizer" if found.name == "vocab.txt" else "GPT2Tokenizer"
    family = FAMILIES.get(name)
    if family is None:
        raise CheckpointError(
            f"{folder}: there is no tokenizer.json, and {name} is not a tokenizer that can be built around "
            f"{Path(getattr(found, 'path', found)).name}; known are {', '.join(FAMILIES)}."
        )
    if family is FAMILIES["BertTokenizer"]:
        config.setdefault("do_lower_case", True)  # what every version that saved no tokenizer.json assumed
    for key, value in (*family.roles.items(), *family.usage.items()):
        config.setdefault(key, value)
    try:
        pieces = _vocabulary(found, family, config)
        return family.build(replace(pieces, added=[*pieces.added, *_listed(config)]), config)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def class_of(folder: Path, config: dict[str, Any]) -> str | None:
    """The tokenizer's class without "Fast", as the folder's configurations say, or by the model's type."""
    model = _model_config(folder)
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if name in GENERIC:
        name = MODEL_TYPES.get(str(model.get("model_type")), name)
    return name if name in GENERIC else str(name).removesuffix("Fast")


def model_type_of(folder: Path) -> str:
    """The type of the model that the folder is of; empty where nothing says."""
    return str(_model_config(folder).get("model_type", ""))


def _model_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return read_mapping(path) if path.is_file() else {}


def _found(folder: Path) -> SentencePieceModel | Path:
    for name in SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            return SentencePieceModel.read(folder / name)
    if (folder / "vocab.txt").is_file():
        return folder / "vocab.txt"
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return folder / "vocab.json"
    raise CheckpointError(
        f"{folder}: there is no tokenizer.json, and no vocabulary either (vocab.txt, vocab.json with "
        f"merges.txt, {', '.join(SENTENCEPIECE_FILES)}); give a folder that a tokenizer was saved to."
    )


def _vocabulary(found: SentencePieceModel | Path, family: Family, config: dict[str, Any]) -> Pieces:
    if isinstance(found, SentencePieceModel):
        return family.from_pieces(found.pieces, {**family.roles, **config})
    if (found.name == "vocab.txt") != (family.kind == "WordPiece"):
        raise CheckpointError(f"a {family.kind} tokenizer is named, but the vocabulary is {found.name}.")
    return read_lines(found) if found.name == "vocab.txt" else read_ids(found, found.with_name("merges.txt"))


def _listed(config: dict[str, Any]) -> list[tokenizers.AddedToken]:
    """The added tokens that the configuration lists, in the order of their ids."""
    listed = sorted(config["added_tokens_decoder"].items(), key=lambda item: int(item[0]))
    return [added_token(token) for _, token in listed]


def _as_trained(model: SentencePieceModel, config: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = model.pipeline()
    backend.add_tokens([*model.pieces.added, *_listed(config)])
    for role, token in model.roles().items():
        config.setdefault(role, token)
    return backend
