"""Whether a configuration's values are of the types that its fields declare.

Single values are judged, and lists of them; what a field holds in a mapping of its own judges itself. Free of
torch.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def type_problems(config: Any) -> list[str]:
    """``field: what is wanted`` for each value of another type; a whole number does where any number does."""
    hints = _hints(type(config))
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return [
        f"{name}: {_wanted(hints[name])} is wanted, {value!r} was given"
        for name, value in values.items()
        if not _fits(hints[name], value)
    ]


@cache
def _hints(kind: type) -> dict[str, tuple[Any, ...]]:
    """What each field may be: the members of a union, or its one type."""
    hints = get_type_hints(kind)
    return {f.name: _members(hints[f.name]) for f in fields(kind)}


def _members(hint: Any) -> tuple[Any, ...]:
    return (hint,) if get_origin(hint) in (None, Literal, tuple, dict) else get_args(hint)


def _fits(members: tuple[Any, ...], value: Any) -> bool:
    return any(_is_a(member, value) for member in members)


def _is_a(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is Literal:
        return isinstance(value, str)  # which ones there are the family says itself
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is_a(get_args(kind)[0], item) for item in value)
    return isinstance(value, kind) if kind in (bool, str, type(None)) else True


def _wanted(members: tuple[Any, ...]) -> str:
    kinds = [member for member in members if member is not type(None)]
    return " or ".join(
        "text" if get_origin(kind) is Literal else WANTED.get(kind, "a list") for kind in kinds
    )
