"""Command lines, mappings and files to dataclasses, for Python programs (reference: internal/trainer_utils).

``train.py`` does not use it: recipes are composed. It is for a script of one's own with ``TrainingArguments``
and dataclasses beside them. What was not typed keeps the dataclass's default and does not count as given.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from argparse import _ArgumentGroup as ArgumentGroup
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from conf.errors import ConfigError
from conf.plugins import nearest
from trainer.argument_setters import default_of
from trainer.argument_table import ARGUMENTS
from trainer.training_arguments import TrainingArguments

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
MEANINGS = {argument.name: argument.meaning.replace("%", "%%") for argument in ARGUMENTS}
_UNTYPED: Any = object()


class HfArgumentParser(ArgumentParser):
    """An ``argparse`` parser whose options are the fields of dataclasses, made from their annotations.

    Fields may be text, numbers, truth values (``--flag``, ``--flag false``, and ``--no_flag`` where true is
    the default), ``Literal``, ``Enum``, ``list[X]`` and ``X | None``; beside ``X`` a union may have ``str``.
    ``metadata`` of a field is passed on (``help``, ``aliases``). A dataclass with ``_argument_group_name``
    gets a group of that name. More options can be added by ``add_argument``.
    """

    def __init__(self, dataclass_types: type | Iterable[type] | None = None, **kwargs: Any):
        super().__init__(**{"formatter_class": ArgumentDefaultsHelpFormatter, **kwargs})
        if dataclass_types is None:
            dataclass_types = ()
        one = isinstance(dataclass_types, type)
        self.dataclass_types: list[Any] = [dataclass_types] if one else list(dataclass_types)  # type: ignore[arg-type]
        for cls in self.dataclass_types:
            group = getattr(cls, "_argument_group_name", None)
            place = self if group is None else self.add_argument_group(group)
            hints = get_type_hints(cls)
            for field in _fields(cls):
                _add(place, cls, field, hints[field.name])

    def parse_args_into_dataclasses(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: str | PathLike[str] | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """One instance of each dataclass, then a namespace if more options were added, then what remains.

        ``args`` default to those of the process. Before them go the words of a file: ``args_filename``, or
        the script's own name with the suffix ``.args`` where ``look_for_args_file``, and of each file that
        follows the option ``args_file_flag``; of an option typed twice the last one holds.
        Raises ``ConfigError`` for unknown options, unless ``return_remaining_strings``.
        """
        words = list(sys.argv[1:] if args is None else args)
        files = [Path(args_filename)] if args_filename else []
        if not files and look_for_args_file and sys.argv:
            files = [Path(sys.argv[0]).with_suffix(".args")]
        if args_file_flag:
            named = ArgumentParser(add_help=False, allow_abbrev=False)
            named.add_argument(args_file_flag, action="append", default=[], dest="files", type=Path)
            found, words = named.parse_known_args(words)
            files += found.files
        written = [word for file in files if file.is_file() for word in file.read_text("utf-8").split()]

        names = [field.name for cls in self.dataclass_types for field in _fields(cls)]
        space = Namespace(**dict.fromkeys(names, _UNTYPED))
        space, remaining = self.parse_known_args([*written, *words], space)
        outputs = [self._made(cls, vars(space)) for cls in self.dataclass_types]
        more = {name: value for name, value in vars(space).items() if name not in names}
        if more:
            outputs.append(Namespace(**more))
        if return_remaining_strings:
            return (*outputs, remaining)
        if remaining:
            option = remaining[0].partition("=")[0]
            known = [text for text in self._option_string_actions if text.startswith("--")]
            raise ConfigError(f"{option}: there is no such option; {nearest(option, known)}")
        return tuple(outputs)

    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """One instance of each dataclass from a mapping. Raises ``ConfigError`` for keys of none of them."""
        names = {field.name for cls in self.dataclass_types for field in _fields(cls)}
        unknown = [f"{key}: there is no such key; {nearest(key, names)}" for key in args if key not in names]
        if unknown and not allow_extra_keys:
            raise ConfigError(unknown)
        return tuple(
            cls(**{field.name: args[field.name] for field in _fields(cls) if field.name in args})
            for cls in self.dataclass_types
        )

    def parse_json_file(
        self, json_file: str | PathLike[str], allow_extra_keys: bool = False
    ) -> tuple[Any, ...]:
        """``parse_dict`` of a JSON file."""
        return self.parse_dict(read_arguments(json_file, json.loads), allow_extra_keys)

    def parse_yaml_file(
        self, yaml_file: str | PathLike[str], allow_extra_keys: bool = False
    ) -> tuple[Any, ...]:
        """``parse_dict`` of a YAML file."""
        return self.parse_dict(read_arguments(yaml_file, yaml.safe_load), allow_extra_keys)

    def _made(self, cls: Any, typed: Mapping[str, Any]) -> Any:
        """An instance from what was typed, and from defaults that only the parser has."""
        values = {}
        for field in _fields(cls):
            value = typed[field.name]
            if value is _UNTYPED:
                value = self.get_default(field.name)
                if value == default_of(field):
                    continue
            values[field.name] = value
        return cls(**values)


def _fields(cls: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _add(place: ArgumentParser | ArgumentGroup, cls: type, field: dataclasses.Field[Any], hint: Any) -> None:
    """The options of one field, in both spellings; the opposite too of a truth value that is usually true."""
    more = dict(field.metadata)
    if issubclass(cls, TrainingArguments):
        more.setdefault("help", MEANINGS.get(field.name))
    aliases = more.pop("aliases", ())
    aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    default = default_of(field)
    settings = _settings(_simple(hint, field.name), default)
    if default is dataclasses.MISSING:
        settings.setdefault("required", "default" not in settings)
    else:
        settings["default"] = default
    spellings = dict.fromkeys((field.name, field.name.replace("_", "-")))
    place.add_argument(*(f"--{name}" for name in spellings), *aliases, **{**more, **settings})
    if default is True and settings.get("const"):
        more["help"] = f"set {field.name} to false"
        place.add_argument(
            f"--no_{field.name}",
            f"--no-{field.name.replace('_', '-')}",
            action="store_false",
            default=True,
            dest=field.name,
            **more,
        )


def _simple(hint: Any, name: str) -> Any:
    """The one type that a union is read as. Raises ``ValueError`` where there is none."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    members = [member for member in get_args(hint) if member is not type(None)]
    others = [member for member in members if member is not str]
    if len(others) > 1 and len(others) == len(members):
        raise ValueError(f"{name}: a union may have one type beside None and str, {hint} has {len(members)}.")
    if bool in others:
        return Union[tuple(members)] if str in members else bool | None  # noqa: UP007, made at run time
    if len(members) == len(get_args(hint)):
        return others[0]
    return str if str in members else members[0]


def _settings(hint: Any, default: Any) -> dict[str, Any]:
    """What ``add_argument`` is told of a type."""
    if hint is bool or (hint == bool | None and default not in (None, dataclasses.MISSING)):
        fallback = {"default": False} if default is dataclasses.MISSING else {}
        return {"type": _truth, "nargs": "?", "const": True, **fallback}
    if hint == bool | None:
        return {"type": _truth}
    if get_origin(hint) in (Union, types.UnionType):
        return {"type": _truth_or_text, "nargs": "?", "const": True}
    choices = get_args(hint) if get_origin(hint) is Literal else None
    if isinstance(hint, type) and issubclass(hint, Enum):
        choices = tuple(member.value for member in hint)
    if choices is not None:
        spelled = {str(choice): choice for choice in choices}
        return {"type": lambda word: spelled.get(word, word), "choices": choices}
    if get_origin(hint) is list:
        item = _settings(get_args(hint)[0], dataclasses.MISSING)
        return {**{key: item[key] for key in ("type", "choices") if key in item}, "nargs": "+"}
    return {"type": hint}


def _truth(word: str) -> bool:
    if word.lower() not in TRUE + FALSE:
        raise ArgumentTypeError(f"one of {', '.join(TRUE + FALSE)} is wanted, {word!r} was given")
    return word.lower() in TRUE


def _truth_or_text(word: str) -> bool | str:
    return _truth(word) if word.lower() in TRUE + FALSE else word


def read_arguments(file: str | PathLike[str], parse: Callable[[str], Any]) -> Mapping[str, Any]:
    """The mapping in a file; ``ConfigError`` for one that cannot be read, parsed, or holds something else."""
    try:
        data = parse(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: it cannot be read: {error.strerror}.") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: it cannot be parsed: {str(error).splitlines()[0]}.") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{file}: a mapping of arguments is wanted, {type(data).__name__} was found.")
    return data
