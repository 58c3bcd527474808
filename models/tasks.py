"""What a family can be trained for, as data: the head of each task, and its parameters' checkpoint names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from conf.errors import ConfigError
from conf.plugins import nearest
from models import CATALOG


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of one family.

    ``architecture`` is the name that a ``config.json`` states, ``head`` a key of ``models.HEADS`` or None for
    the bare backbone. ``keys`` are pairs from names, or prefixes of names, of the head's parameters to those
    of checkpoints. ``backbone`` are options that the backbone is made with for this task.
    """

    architecture: str
    head: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    backbone: Mapping[str, Any] = field(default_factory=dict)


def family_table(model_type: str) -> ModuleType:
    """The ``convert`` module of a family: ``TASKS``, ``PREFIX``, ``RENAMES``, ``IGNORED``."""
    if model_type not in CATALOG:
        raise ConfigError(f"model_type: there is no {model_type!r}; {nearest(model_type, CATALOG)}")
    package = CATALOG[model_type][1].partition(":")[0].rpartition(".")[0]
    return import_module(f"{package}.convert")


def task_named(name: str | None, model_type: str) -> Task:
    """A task of a family; ``ConfigError`` naming those that it has."""
    tasks: Mapping[str | None, Task] = family_table(model_type).TASKS
    if name not in tasks:
        known = [known for known in tasks if known is not None]
        raise ConfigError(f"model_type: {model_type} has no head for {name!r}; {nearest(str(name), known)}")
    return tasks[name]
