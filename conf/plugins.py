"""From a name in YAML to a class, through literal tables of strings.

A package lists what it offers in its ``CATALOG``::

    CATALOG = {
        "early_stopping": "callbacks.early_stopping:EarlyStopping",            # its own options dataclass
        "sgd": ("trainer.optimizers.options:SGD", "trainer.optimizers.torch:build"),  # options, what is built
    }

Importing the package registers and loads nothing; ``resolve`` imports one entry when it is asked for.
Options live in modules without torch, so that a configuration can be judged before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from conf.errors import ConfigError

Entry = str | tuple[str, str]
Catalog = Mapping[str, Entry]


@dataclass(frozen=True)
class Package:
    """A package that a plug-in needs and that is not installed by itself; ``extra`` brings it."""

    module: str
    extra: str

    @property
    def is_missing(self) -> bool:
        """Whether it cannot be imported; nothing is."""
        try:
            return find_spec(self.module) is None
        except ModuleNotFoundError:  # of what it lies in
            return True

    @property
    def problem(self) -> str:
        """The end of an error sentence."""
        return f"it needs the package {self.module}; pip install 'stockpot[{self.extra}]'."


def resolve(address: str) -> Any:
    """Import ``"package.module:attribute"`` and return the attribute."""
    module, _, attribute = address.partition(":")
    return getattr(import_module(module), attribute)


def lazy(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` for ``names`` (name -> module), each imported when it is first used."""

    def load(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(names[name]), name)

    return load


def options_of(catalog: Catalog, name: str, path: str) -> Any:
    """The options dataclass of ``name``; ``ConfigError`` naming ``path`` and the nearest names if unknown."""
    return resolve(_entry(catalog, name, path)[0])


def thing_of(catalog: Catalog, name: str, path: str) -> Any:
    """What ``name`` builds: a class or function called as ``thing(options, **runtime)``."""
    return resolve(_entry(catalog, name, path)[-1])


def _entry(catalog: Catalog, name: str, path: str) -> tuple[str, ...]:
    if name not in catalog:
        raise ConfigError(f"{path}: there is no {name!r}; {nearest(name, catalog)}")
    entry = catalog[name]
    return (entry,) if isinstance(entry, str) else entry


def nearest(given: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error sentence: the closest known spelling, or all of them when none is close."""
    known = sorted(known)
    close = get_close_matches(str(given), known, n=1, cutoff=0.55)
    if close:
        return f"did you mean {prefix + close[0]!r}?"
    return f"known are {', '.join(known)}." if known else "there are none here."
