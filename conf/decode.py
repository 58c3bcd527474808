"""Plain data to frozen, typed dataclasses, with every problem found and named by its path.

Supported annotations: ``bool int float str``, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``,
nested dataclasses, and ``Annotated[Chosen, OneOf(catalog)]`` for a section whose ``name`` picks its options.
A dataclass that checks itself raises ``ValueError`` or ``ConfigError`` in ``__post_init__``, its text being
"field: what is wrong".
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from conf.errors import ConfigError
from conf.plugins import Catalog, nearest, options_of, resolve

T = TypeVar("T")
MISSING = object()


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """Annotation: a section's ``name`` is a key of the catalog at this address, the rest are its options."""

    catalog: str
    default: str | None = None

    def entries(self) -> Catalog:
        return resolve(self.catalog)


@dataclass(frozen=True)
class Chosen:
    """A decoded section of a catalog: the name that was chosen and its options."""

    name: str
    options: Any

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute == "options":  # not yet set while unpickling or copying
            raise AttributeError(attribute)
        return getattr(self.options, attribute)


def decode(cls: type[T], data: Mapping[str, Any]) -> T:
    """Make a ``cls`` of plain data. Raises ``ConfigError`` that carries every problem, each with its path."""
    value, problems = decode_leniently(cls, data)
    if problems:
        raise ConfigError(problems.values())
    assert value is not None
    return value


def decode_leniently(
    cls: type[T], data: Mapping[str, Any], *, homes: Mapping[str, str] | None = None
) -> tuple[T | None, dict[str, str]]:
    """A ``cls`` with defaults where the data is wrong (None if that cannot be), and the problems by path.

    So that more can be said about the rest. ``homes`` maps a leaf name to the path where it lives, for the
    hint when it is given at another place.
    """
    reader = _Reader(homes or {})
    value = reader.dataclass(cls, data, "")
    return (None if value is MISSING else value), reader.problems


def decode_fields(cls: type, data: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Judge some fields of ``cls`` without making one: keys and types are checked, nothing is required."""
    reader = _Reader({})
    values = {key: value for key, value in reader.fields(cls, data, path) if value is not MISSING}
    if reader.problems:
        raise ConfigError(reader.problems.values())
    return values


def encode(value: Any) -> Any:
    """The plain data that ``decode`` would read back as ``value``."""
    if isinstance(value, Chosen):
        return {"name": value.name, **encode(value.options)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``(dotted path, value)`` of nested mappings; an empty mapping is a leaf."""
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from leaves(value, _join(path, key))
    else:
        yield path, data


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


class _Reader:
    """Walks data beside annotations and collects problems instead of stopping at the first."""

    def __init__(self, homes: Mapping[str, str]):
        self.homes = homes
        self.problems: dict[str, str] = {}

    def problem(self, path: str, text: str) -> Any:
        self.problems[path] = f"{path}: {text}"
        return MISSING

    def wrong(self, path: str, value: Any, wanted: str) -> Any:
        name = path.rpartition(".")[2]
        shown = f"<{name.upper()}>" if name.endswith("_token") else repr(value)  # a secret is not repeated
        return self.problem(path, f"{wanted} is wanted, {shown} was given.")

    # -- sections ----------------------------------------------------------------------------------

    def dataclass(self, cls: type, data: Any, path: str) -> Any:
        if not isinstance(data, Mapping):
            return self.wrong(path, data, "a mapping")
        given = dict(self.fields(cls, data, path))
        values = {name: value for name, value in given.items() if value is not MISSING}
        for field in dataclasses.fields(cls):
            if field.init and field.name not in values:
                self.fill(field, _hints(cls)[field.name], values, path, wrong=field.name in given)
        if any(f.init and f.name not in values and not _has_default(f) for f in dataclasses.fields(cls)):
            return MISSING
        return self.made(cls, values, path)

    def made(self, cls: type, values: dict[str, Any], path: str) -> Any:
        """The dataclass, without those of its values that it finds wrong itself."""
        try:
            return cls(**values)
        except (ValueError, ConfigError) as error:  # "field: what is wrong"
            self.problem(*_split(path, str(error)))
            wrong = str(error).partition(": ")[0]
        if not any(f.name == wrong and f.name in values and _has_default(f) for f in dataclasses.fields(cls)):
            return MISSING
        return self.made(cls, {name: value for name, value in values.items() if name != wrong}, path)

    def fields(self, cls: type, data: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        hints = _hints(cls)
        for key, value in data.items():
            if key not in hints:
                self.unknown(path, str(key), hints)
            else:
                yield key, self.value(hints[key], value, _join(path, key))

    def fill(
        self, field: dataclasses.Field[Any], hint: Any, values: dict[str, Any], path: str, *, wrong: bool
    ) -> None:
        """What has no value and no default: a section's default choice, else a problem if not named."""
        if _has_default(field):
            return
        choice = _one_of(hint)
        if choice is not None and choice.default is not None:
            values[field.name] = self.chosen(choice, {}, _join(path, field.name))
        elif not wrong:
            self.problem(_join(path, field.name), "a value is required and none was given.")

    def unknown(self, path: str, key: str, known: Mapping[str, Any]) -> None:
        home = self.homes.get(key)
        if home and home != _join(path, key):
            self.problem(_join(path, key), f"no such key here; {key!r} lives at {home!r}.")
        else:
            prefix = f"{path}." if path else ""
            self.problem(_join(path, key), f"no such key; {nearest(key, [*known], prefix)}")

    def chosen(self, choice: OneOf, data: Any, path: str) -> Any:
        if isinstance(data, str):
            data = {"name": data}
        if not isinstance(data, Mapping):
            return self.wrong(path, data, "a name or a mapping with one")
        name = data.get("name", choice.default)
        if not isinstance(name, str):
            return self.problem(_join(path, "name"), f"a name is required; {nearest('', choice.entries())}")
        try:
            options = options_of(choice.entries(), name, _join(path, "name"))
        except ConfigError as error:
            return self.problem(_join(path, "name"), error.problems[0].partition(": ")[2])
        given = {key: value for key, value in data.items() if key != "name"}
        value = self.dataclass(options, given, path)
        return MISSING if value is MISSING else Chosen(name, value)

    def mapping(self, item: Any, data: Any, path: str) -> Any:
        if not isinstance(data, Mapping):
            return self.wrong(path, data, "a mapping")
        choice = _one_of(item)
        values = {}
        for key, value in data.items():
            if value is None and choice is not None:
                continue  # an entry set to null is taken away
            if choice is not None and isinstance(value, Mapping):
                value = {"name": key, **value}
            values[str(key)] = self.value(item, value, _join(path, key))
        return {key: value for key, value in values.items() if value is not MISSING}

    # -- values ------------------------------------------------------------------------------------

    def value(self, hint: Any, value: Any, path: str) -> Any:
        choice = _one_of(hint)
        if choice is not None:
            return self.chosen(choice, value, path)
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        origin, args = get_origin(hint), get_args(hint)
        if hint is Any or hint is object:
            return value
        if origin in (Union, types.UnionType):
            return self.union(args, value, path)
        if origin is Literal:
            return self.literal(args, value, path)
        if origin is tuple:
            return self.sequence(args[0], value, path)
        if origin in (dict, Mapping):
            return self.mapping(args[1], value, path)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, value, path)  # type: ignore[arg-type]
        converted = _SCALARS[hint](value)
        return self.wrong(path, value, _WANTED[hint]) if converted is MISSING else converted

    def union(self, members: tuple[Any, ...], value: Any, path: str) -> Any:
        if value is None and type(None) in members:
            return None
        members = tuple(member for member in members if member is not type(None))
        if len(members) == 1:
            return self.value(members[0], value, path)
        for member in members:
            attempt = _Reader(self.homes)
            result = attempt.value(member, value, path)
            if not attempt.problems:
                return result
        wanted = " or ".join(_WANTED.get(member, _name(member)) for member in members)
        return self.wrong(path, value, wanted)

    def literal(self, allowed: tuple[Any, ...], value: Any, path: str) -> Any:
        if value is False and "no" in allowed:  # YAML reads a bare `no` as false
            value = "no"
        if any(value == item and type(value) is type(item) for item in allowed):
            return value
        return self.problem(path, f"{value!r} is none of its values; {nearest(value, map(str, allowed))}")

    def sequence(self, item: Any, value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple):
            return self.wrong(path, value, "a list")
        items = [self.value(item, element, f"{path}[{i}]") for i, element in enumerate(value)]
        return MISSING if MISSING in items else tuple(items)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _one_of(hint: Any) -> OneOf | None:
    if get_origin(hint) is not Annotated:
        return None
    return next((mark for mark in hint.__metadata__ if isinstance(mark, OneOf)), None)


def _split(path: str, message: str) -> tuple[str, str]:
    field, separator, text = message.partition(": ")
    return (_join(path, field), text) if separator else (path, message)


def _name(hint: Any) -> str:
    kinds = {Literal: f"one of {', '.join(map(str, get_args(hint)))}", tuple: "a list", dict: "a mapping"}
    return kinds.get(get_origin(hint), str(hint))


def _bool(value: Any) -> Any:
    return value if isinstance(value, bool) else MISSING


def _int(value: Any) -> Any:
    number = _float(value)
    return int(number) if number is not MISSING and number == number // 1 and abs(number) < 2**63 else MISSING


def _float(value: Any) -> Any:
    """Numbers, and text that is one: YAML reads ``1e-4`` as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return MISSING
    if isinstance(value, int):
        return value
    try:
        number = float(value)
    except ValueError:
        return MISSING
    return MISSING if math.isnan(number) else number


def _text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else MISSING


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _bool,
    int: _int,
    float: lambda value: float(number) if (number := _float(value)) is not MISSING else MISSING,
    str: _text,
}
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
