"""Reading the file of a model's configuration: of a folder, of a hub's repository, or named itself.

Free of torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from conf.errors import CheckpointError, ConfigError
from conf.hub_files import HubOptions, folder_of

CONFIG_FILE = "config.json"
CONFIG_FILES = (CONFIG_FILE, "generation_config.json")  # what of a repository describes a model
HUB_OPTIONS = tuple(option.name for option in fields(HubOptions))


def config_dict(folder: str | Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of a model's ``config.json``, and those of the ``options`` that are no ``HubOptions``.

    ``folder`` may be the JSON file itself, or a hub's id. ``CheckpointError`` if nothing can be read,
    ``ConfigError`` for ``trust_remote_code``.
    """
    others = {name: value for name, value in options.items() if name not in HUB_OPTIONS}
    refuse_foreign_code(others.pop("trust_remote_code", None))
    if Path(folder).is_file():
        return read_json(Path(folder)), others
    hub = HubOptions(**{name: value for name, value in options.items() if name in HUB_OPTIONS})
    return read_config_file(folder_of(folder, CONFIG_FILES, hub)), others


def read_config_file(folder: str | Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a model folder; ``CheckpointError`` if there is none or it is broken."""
    return read_json(Path(folder) / CONFIG_FILE)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ``CheckpointError`` if there is none or it is broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; a model folder holds a {CONFIG_FILE}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: is no valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds {type(data).__name__} where a JSON object is expected")
    return data


def refuse_foreign_code(trust_remote_code: bool | None) -> None:
    """``ConfigError`` where code of a checkpoint is to be run."""
    if trust_remote_code:
        raise ConfigError(
            "trust_remote_code: code that comes with a checkpoint is never run; leave the option out, and "
            "register a family of your own in the program that uses it"
        )
