"""From the reference's flat training arguments to the nested configuration, and back, through one table.

``trainer.argument_table`` is the table. A recipe and a Python program so mean the same by the same name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from conf.decode import Chosen, decode_leniently, encode
from conf.errors import ConfigError
from conf.plugins import nearest
from trainer.argument_setters import default_of
from trainer.argument_table import (
    ARGUMENTS,
    DIFFERENT_DEFAULTS,
    HOMES,
    REFERENCE_DEFAULTS,
    Argument,
)
from trainer.argument_values import as_data
from trainer.config import RunConfig
from trainer.training_arguments import Seq2SeqTrainingArguments, TrainingArguments, defaults

__all__ = [
    "ARGUMENTS",
    "DIFFERENT_DEFAULTS",
    "HOMES",
    "REFERENCE_DEFAULTS",
    "Argument",
    "Placed",
    "flat",
    "in_flat_names",
    "nested",
    "read",
    "refused",
    "run_config",
    "tasks",
]

TASKS = {"do_train": "train", "do_eval": "evaluate", "do_predict": "predict"}
SPREAD = {"optim_args", "lr_scheduler_kwargs"}  # their items become keys of a section

BY_NAME: Mapping[str, Argument] = {argument.name: argument for argument in ARGUMENTS}
NAMES: Mapping[str, str] = {a.path: a.name for a in ARGUMENTS if a.name not in TASKS.keys() | SPREAD}
_PATH = re.compile(r"\b[a-z]+\.[a-z0-9_]+\b")  # as it stands inside a sentence


def nested(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The nested data that ``conf.decode`` reads, of flat arguments that were given.

    Raises ``ConfigError`` with a sentence for each name that is unknown, each text or file that cannot be
    read, and each value that is for hardware which nothing here runs on.
    """
    placed = Placed(arguments)
    if placed.problems:
        raise ConfigError(placed.problems)
    return placed.data


def run_config(args: TrainingArguments) -> tuple[RunConfig, dict[str, str]]:
    """The configuration that flat arguments ask for, and the paths that were given (path -> ``"python"``).

    Model, data and processor come from the program. What was neither given nor changed has the default of
    ``RunConfig``. Raises ``ConfigError`` with every problem, by the names of the flat arguments; what options
    mean together is not judged here.
    """
    usual = defaults(type(args))
    values = {name: getattr(args, name) for name in HOMES if name in usual}
    placed = Placed(
        {name: value for name, value in values.items() if name in args.given or value != usual[name]}
    )
    for section in ("model", "processor", "data"):
        placed.data.setdefault(section, {})["given"] = True
    config = placed.decode()
    given = {path for path, name in placed.origins.items() if name.partition(".")[0] in args.given}
    return config, dict.fromkeys(sorted(given), "python")


def in_flat_names(problem: str, names: Mapping[str, str] = NAMES) -> str:
    """A sentence ``path: ...`` with flat arguments in place of the paths in it, where there are some."""
    path, colon, text = problem.partition(": ")
    text = _PATH.sub(lambda found: names.get(found[0], found[0]), text)
    homes = [home for home in names if path == home or path.startswith((f"{home}.", f"{home}["))]
    home = max(homes, key=len, default=None)
    return f"{path if home is None else names[home] + path[len(home) :]}{colon}{text}"


def flat(config: RunConfig) -> TrainingArguments:
    """The flat view of a configuration: the table read backwards, as callbacks get it for ``args``."""
    values = defaults()  # what the chosen optimizer or schedule does not have keeps its default
    for path, name in NAMES.items():
        owner, _, leaf = path.rpartition(".")
        section = read(config, owner) if owner else config
        if hasattr(section, leaf):
            values[name] = encode(getattr(section, leaf))
    values |= {name: config.task == task for name, task in TASKS.items()}
    values["do_eval"] |= config.evaluation.eval_strategy != "no"
    options = _further(config, "optimizer")
    values["optim_args"] = _as_text(options)
    values["lr_scheduler_kwargs"] = _further(config, "schedule") or None
    if config.resume == "auto":
        values["resume_from_checkpoint"] = True
    return Seq2SeqTrainingArguments(**values)


def refused(config: RunConfig) -> Iterator[str]:
    """A sentence for every option whose value this version does not carry out, or never will."""
    for argument in {argument.path: argument for argument in ARGUMENTS}.values():
        value = read(config, argument.path)
        if isinstance(value, Chosen):
            continue
        if never := _never(argument, value):
            yield f"{argument.path}{never}"
        elif argument.runs is not None and value not in argument.runs:
            runs = (item for item in argument.runs if item or (item is False and isinstance(value, bool)))
            only = " or ".join(map(repr, runs))
            instead = f" or at {only}" if only else ""
            shown = f"<{argument.name.upper()}>" if argument.name.endswith("_token") else repr(value)
            yield (
                f"{argument.path}: {shown} is not supported yet, it comes with {argument.brought_by}; "
                f"leave it out{instead}."
            )


def read(config: Any, path: str) -> Any:
    """The value at a dotted path of a decoded configuration; ``None`` where there is no such field."""
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else getattr(config, part, None)
    return config


def tasks(arguments: Mapping[str, Any]) -> list[str]:
    """The flags that ask for a run, training first; a run that evaluates on the way trains."""
    asked = [name for name in TASKS if arguments.get(name)]
    if as_data(arguments.get("eval_strategy", "no")) in ("no", False):
        return asked
    return ["do_train", *(name for name in asked if name == "do_predict")]


class Placed:
    """Flat arguments in their places: the nested data, which argument each path came from, and problems."""

    def __init__(self, arguments: Mapping[str, Any]):
        self.data: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        for flag in tasks(arguments)[:1]:
            if arguments.get(flag):
                self.place("task", TASKS[flag], flag)
        for name in sorted(arguments, key=lambda name: name in SPREAD):  # so that they find what is there
            try:
                if name not in BY_NAME:
                    self.problems.append(f"{name}: there is no such argument; {nearest(name, BY_NAME)}")
                elif name not in TASKS:
                    self.argument(BY_NAME[name], arguments[name])
            except ConfigError as error:
                self.problems.extend(error.problems)

    def argument(self, argument: Argument, value: Any) -> None:
        """Decode one argument and put it in its place."""
        value = argument.decode(argument.name, value)
        if never := _never(argument, value):
            self.problems.append(f"{argument.name}{never}")
        elif argument.name not in SPREAD:
            self.place(argument.path, value, argument.name)
        else:
            for key, item in (value or {}).items():
                path, place = f"{argument.path}.{key}", f"{argument.name}.{key}"
                if key == "name" or path in self.origins:
                    other = self.origins.get(path, NAMES[path])
                    self.problems.append(f"{place}: that is the argument {other}; leave it out here.")
                else:
                    self.place(path, item, place)

    def place(self, path: str, value: Any, origin: str) -> None:
        *sections, leaf = path.split(".")
        data = self.data
        for section in sections:
            data = data.setdefault(section, {})
        data[leaf] = value
        self.origins[path] = origin

    def decode(self) -> RunConfig:
        """The configuration; raises ``ConfigError`` with every problem, by the names of the arguments."""
        config, wrong = decode_leniently(RunConfig, self.data)
        problems = [*self.problems, *map(self.named, wrong.values())]
        if problems:
            raise ConfigError(problems)
        assert config is not None
        return config

    def named(self, problem: str) -> str:
        """A problem of decoding in the names of the flat arguments."""
        path, _, text = problem.partition(": ")
        section = path.partition(".")[0]
        origin = self.origins.get(path)
        if text.startswith("no such key") and origin in BY_NAME:
            chooser = NAMES[f"{section}.name"]
            name = self.data[section].get("name", defaults()[chooser])
            return f"{origin}: {chooser} {name!r} has no such option; leave it out."
        return in_flat_names(problem, {**NAMES, **self.origins})


def _never(argument: Argument, value: Any) -> str:
    """The rest of a sentence about the first word, or key, of a value that cannot matter here."""
    if isinstance(value, Mapping):
        words = [key for key, item in value.items() if item]
    else:
        words = value.split() if isinstance(value, str) else [value]
    found = (word for word in words if isinstance(word, str | bool) and str(word) in argument.never)
    return next((f": {word!r} {argument.never[str(word)]}" for word in found), "")


def _as_text(options: Mapping[str, Any]) -> str | None:
    """Options as ``optim_args`` takes them: JSON where the plain form has no word for a value."""
    if any(isinstance(value, list | dict) for value in options.values()):
        return json.dumps(options)
    return ",".join(f"{key}={value}" for key, value in options.items()) or None


def _further(config: RunConfig, section: str) -> dict[str, Any]:
    """The options of a section beyond those with a flat name of their own, where they are not the default."""
    options = getattr(config, section).options
    return {
        field.name: encode(getattr(options, field.name))
        for field in fields(options)
        if field.init and f"{section}.{field.name}" not in NAMES
        if default_of(field) is MISSING or getattr(options, field.name) != default_of(field)
    }
