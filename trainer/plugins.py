"""A user's own models, callbacks, collators and so on, added to the catalogs by name.

A plug-in is a Python file named on the command line (``plugins=FILE.py``) or a package with an entry point in
the group ``stockpot.plugins``; a configuration or a checkpoint can never name one. It says what it offers::

    CATALOG = {"callbacks": {"shout": "my_plugin:Shout"}}
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib import util
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from conf.errors import ConfigError
from conf.plugins import nearest, resolve

CATALOGS = {
    "averaging": "trainer.averaging:CATALOG",
    "callbacks": "callbacks:CATALOG",
    "collators": "collators:CATALOG",
    "formats": "processors:FORMATS",
    "metrics": "trainer.metrics:CATALOG",
    "models": "models:CATALOG",
    "objectives": "trainer.objectives:CATALOG",
    "optimizers": "trainer.optimizers:CATALOG",
    "schedules": "trainer.schedules:CATALOG",
}


def load_plugins(files: Sequence[str]) -> dict[str, str]:
    """Add what the files and the installed entry points offer; returns name -> sha256 (of a file) or version.

    Raises ``ConfigError`` for a file that is missing, breaks, or offers a name that is taken.
    """
    loaded = {}
    for entry in entry_points(group="stockpot.plugins"):
        _add(entry.name, entry.load())
        loaded[entry.name] = entry.dist.version if entry.dist else "?"
    for file in map(Path, files):
        _add(str(file), _import(file))
        loaded[file.name] = sha256(file.read_bytes()).hexdigest()
    return loaded


def _import(file: Path) -> Any:
    if not file.is_file():
        raise ConfigError(f"plugins: there is no file {str(file)!r}.")
    if file.stem in sys.modules:
        raise ConfigError(f"plugins: a module {file.stem!r} exists already; give {str(file)!r} another name.")
    spec = util.spec_from_file_location(file.stem, file.resolve())
    assert spec is not None, file
    assert spec.loader is not None, file
    module = util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[file.stem]
        raise ConfigError(f"plugins: {file} cannot be imported ({type(error).__name__}: {error}).") from error
    return module


def _add(name: str, module: Any) -> None:
    offered = getattr(module, "CATALOG", None)
    if not isinstance(offered, dict):
        raise ConfigError(
            f"plugins: {name} has no CATALOG; give one like {{'callbacks': {{'mine': 'file:Class'}}}}."
        )
    for kind, entries in offered.items():
        if kind not in CATALOGS:
            raise ConfigError(f"plugins: {name} offers {kind!r}; {nearest(kind, CATALOGS)}")
        catalog = resolve(CATALOGS[kind])
        for taken in catalog.keys() & entries.keys():
            raise ConfigError(f"plugins: {name} offers {kind} {taken!r}, a name that is taken.")
        catalog.update(entries)
