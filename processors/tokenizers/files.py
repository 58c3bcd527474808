"""Reading the tokenizer files that a Hugging Face folder may hold, old spellings included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from conf.errors import CheckpointError
from processors.folders import SENTENCEPIECE_FILES
from processors.tokenizers import building
from processors.tokenizers.kinds.pieces import added_token, read_mapping

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
# Written into the config although tokenizer.json decides, or naming upstream's own classes and files.
_WITHOUT_MEANING = (
    "tokenizer_class",
    "add_bos_token",
    "add_eos_token",
    "name_or_path",
    "special_tokens_map_file",
    "tokenizer_file",
    "vocab_file",
    "auto_map",
    "backend",
    "is_local",
    "local_files_only",
)


def read_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, completed by ``special_tokens_map.json`` and ``added_tokens.json``."""
    config = _read_json(folder / "tokenizer_config.json")
    for key, value in _read_json(folder / "special_tokens_map.json").items():
        if config.get(key) is None:
            config[key] = value
    if config.get("added_tokens_decoder") is None:
        legacy = _read_json(folder / "added_tokens.json")
        config["added_tokens_decoder"] = {str(i): {"content": token} for token, i in legacy.items()}
    return config


def read_backend(folder: Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """The fast tokenizer of ``tokenizer.json``, or built around the vocabulary that the folder has instead.

    With the added tokens that only ``config`` lists. Takes out of it what has no meaning from here on, and
    puts the special tokens in that a vocabulary leaves unsaid.
    """
    path = folder / "tokenizer.json"
    backend = read_json(path) if path.is_file() else building.build(folder, config)
    if family := building.FAMILIES.get(str(config.get("tokenizer_class")).removesuffix("Fast")):
        config |= {key: value for key, value in family.usage.items() if key not in config}
    for token_id, token in sorted(config.pop("added_tokens_decoder").items(), key=lambda item: int(item[0])):
        _add(backend, int(token_id), token, path if path.is_file() else folder)
    for key in _WITHOUT_MEANING:
        config.pop(key, None)
    return backend


def read_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a ``tokenizer.json``; ``CheckpointError`` where it cannot be read."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} is not a tokenizer that this version can read: {error}.") from error


def original_files(folder: Path) -> dict[str, bytes]:
    """The sentencepiece models of a folder, name to content."""
    return {name: (folder / name).read_bytes() for name in SENTENCEPIECE_FILES if (folder / name).is_file()}


def _add(backend: tokenizers.Tokenizer, token_id: int, token: dict[str, Any], path: Path) -> None:
    if backend.token_to_id(token["content"]) is None:
        backend.add_tokens([added_token(token)])
    found = backend.token_to_id(token["content"])
    if found != token_id:
        raise CheckpointError(
            f"{path} gives the token {token['content']!r} the id {found}, the configuration {token_id}; "
            "the files belong to different tokenizers."
        )


def take_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Name to Jinja source; files win over what ``config`` holds (taken out of it)."""
    inside = config.pop("chat_template", None) or {}
    if isinstance(inside, str):
        inside = {"default": inside}
    elif isinstance(inside, list):
        inside = {entry["name"]: entry["template"] for entry in inside}
    found = {path.stem: path for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        found["default"] = folder / TEMPLATE_FILE
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()} or dict(inside)


def template_path(name: str) -> str:
    """Where the template called ``name`` is saved."""
    if Path(name).name != name:
        raise CheckpointError(f"A chat template cannot be called {name!r}: the name becomes a file's.")
    return TEMPLATE_FILE if name == "default" else f"{TEMPLATE_FOLDER}/{name}.jinja"


def text_of(token: str | dict[str, Any]) -> str:
    """A special token's text; files hold it bare or as a mapping with its flags."""
    return token if isinstance(token, str) else token["content"]


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    return read_mapping(path) if path.is_file() else {}
