"""Python functions as the JSON schemas by which chat templates tell a model of its tools.

The schema comes from type hints and from a docstring in Google's layout (``Args:``, ``Returns:``). Source:
the reference's page on chat templates and its function ``get_json_schema``.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from conf.errors import ConfigError

Schema = dict[str, Any]

_SCALARS: Mapping[type, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
}
_TYPES: Mapping[Any, Schema] = {
    **{scalar: {"type": name} for scalar, name in _SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
# By name: the libraries are not loaded for this.
_MEDIA = {("PIL.Image", "Image"): "image", ("torch", "Tensor"): "audio"}

_SECTION = re.compile(r"^[ \t]*(Args|Returns|Raises):[ \t]*(.*)$")
_ARGUMENT = re.compile(r"^([ \t]*)(\w+):\s*(.*)$")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(tool: Any) -> Schema:
    """A tool as a schema: a mapping is one already, a function is described; ``ConfigError`` for others."""
    if isinstance(tool, Mapping):
        return dict(tool)
    if inspect.isfunction(tool) or inspect.ismethod(tool):
        return get_json_schema(tool)
    raise ConfigError(
        f"tools: {tool!r:.60} was given; a schema, or a function with type hints and a docstring would do."
    )


def get_json_schema(func: Callable[..., Any]) -> Schema:
    """The schema of a function: its name, description, and the type and description of each argument.

    ``(choices: ["a", "b"])`` at the end of an argument's description lists its values. Raises ``ConfigError``
    where a hint or description is missing, or a hint has no counterpart in JSON.
    """
    where = f"tools: the function {getattr(func, '__name__', 'operation')}"
    text = inspect.getdoc(func)
    if not text:
        raise ConfigError(f"{where} has no docstring; one that describes it and its arguments would do.")
    description, arguments, returned = _sections(text)
    try:
        hints = get_type_hints(func)
    except NameError as error:
        raise ConfigError(f"{where}: a type hint cannot be looked up ({error}).") from error
    properties, required = {}, []
    for name, parameter in _parameters(func).items():
        if parameter.annotation is inspect.Parameter.empty:
            raise ConfigError(f"{where}: the argument {name} has no type hint.")
        if name not in arguments:
            raise ConfigError(f"{where}: the docstring does not describe the argument {name} under Args.")
        properties[name] = _described(_of_hint(hints[name], f"{where}, argument {name}"), arguments[name])
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    parameters: Schema = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    made = {"name": func.__name__, "description": description, "parameters": parameters}
    if (result := _returned(hints, returned)) is not None:
        made["return"] = result
    return {"type": "function", "function": made}


def _parameters(func: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A function's parameters without the ``self`` or ``cls`` of a method."""
    found = dict(inspect.signature(func).parameters)
    first = next(iter(found), None)
    if first in ("self", "cls") and found[first].annotation is inspect.Parameter.empty:
        del found[first]
    return found


def _returned(hints: Mapping[str, Any], description: str | None) -> Schema | None:
    """The schema of what a function returns; None without a hint or for one that JSON does not have."""
    if "return" not in hints:
        return None
    try:
        schema = _of_hint(hints["return"], "")
    except ConfigError:  # no model generates it, so that nothing is lost
        return None
    return schema if description is None else {**schema, "description": description}


def _described(schema: Schema, description: str) -> Schema:
    if choices := _CHOICES.search(description):
        values = json.loads(choices.group(1))
        listed = [value.strip() if isinstance(value, str) else value for value in values]
        schema, description = {**schema, "enum": listed}, description[: choices.start()].strip()
    return {**schema, "description": description}


def _sections(text: str) -> tuple[str, dict[str, str], str | None]:
    """A docstring's description, the descriptions of its arguments, and what it says of the result."""
    found: dict[str, list[str]] = {"": []}
    current = ""
    for line in text.strip().splitlines():
        if (heading := _SECTION.match(line)) and heading.group(1) not in found:
            current = heading.group(1)
            found[current] = [heading.group(2)] if heading.group(2) else []
        else:
            found[current].append(line)
    returned = "\n".join(found["Returns"]).strip() if "Returns" in found else None
    return "\n".join(found[""]).strip(), _arguments(found.get("Args", ())), returned


def _arguments(lines: Sequence[str]) -> dict[str, str]:
    """Descriptions by name; a line that is indented deeper than the names goes on with the one before."""
    described: dict[str, list[str]] = {}
    margin = None
    for line in filter(str.strip, lines):
        start = _ARGUMENT.match(line)
        if start and (margin is None or len(start.group(1)) <= margin):
            margin = len(start.group(1))
            current = described.setdefault(start.group(2), [])
            current.append(start.group(3).strip())
        elif described:
            current.append(line.strip())
    return {name: " ".join(filter(None, parts)) for name, parts in described.items()}


def _of_hint(hint: Any, where: str) -> Schema:
    origin, args = get_origin(hint), get_args(hint)
    if origin is None:
        return _of_type(hint, where)
    if origin in (Union, types.UnionType):
        return _of_union(args, where)
    if origin is Literal:
        return _of_values(list(args), where)
    if origin is list:
        return {"type": "array", "items": _of_hint(args[0], where)}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [_of_hint(arg, where) for arg in args]}
    if origin is tuple:
        raise ConfigError(f"{where}: the type hint {hint} was given; list[...] would do.")
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_hint(args[1], where)}
    raise ConfigError(f"{where}: the type hint {hint} has no counterpart in JSON; write the schema by hand.")


def _of_type(hint: Any, where: str) -> Schema:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _of_values([member.value for member in hint], where)
    if hint in _TYPES:
        return dict(_TYPES[hint])
    medium = _MEDIA.get((getattr(hint, "__module__", ""), getattr(hint, "__qualname__", "")))
    if medium is None:
        raise ConfigError(
            f"{where}: the type hint {hint!r} has no counterpart in JSON; int, float, str, bool, Enum, "
            "Literal, lists, tuples, dicts and unions of those would do, or a schema written by hand."
        )
    return {"type": medium}


def _of_values(values: list[Any], where: str) -> Schema:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise ConfigError(f"{where}: the values {values} were given; one or more JSON scalars would do.")
    names = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": names[0] if len(names) == 1 else names, "enum": values}


def _of_union(hints: Sequence[Any], where: str) -> Schema:
    schemas = [_of_hint(hint, where) for hint in hints if hint is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(one.keys() == {"type"} and isinstance(one["type"], str) for one in schemas):
        names = sorted({one["type"] for one in schemas})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in hints else schema
