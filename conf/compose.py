"""From a command line to one plain mapping: Hydra composes, nothing here judges a key.

Three things are done around Hydra so that its own checks cannot mislead: a plain ``a.b=c`` is passed on as
``++a.b=c`` (``conf.decode`` judges keys, with all defaults at hand, and never advises a ``+``); what stops a
composition is reworded; and configuration files that reach for Hydra's own node, for an import, or for files
outside their folder are refused before Hydra sees them, since a configuration must never be able to run code.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from conf.decode import leaves
from conf.errors import ConfigError
from conf.plugins import nearest

CONF = Path(__file__).parent
RECIPES = CONF.parent / "recipes"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Hydra's flags that make sense here. Its parser would also take beginnings of words, another primary
# configuration and a pickled one.
FLAGS_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd")
FLAGS_ALONE = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--multirun", "-m")
FLAGS = (*FLAGS_ALONE, *FLAGS_WITH_VALUE, "--shell-completion", "-sc")


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A composed configuration, and which of its paths were typed (``given``: path -> where)."""

    data: dict[str, Any]
    given: Mapping[str, str]
    recipe: str | None


def recipes(config_dir: Path | None = None) -> dict[str, Path]:
    """Name -> file of every recipe: those that ship, then those of ``config_dir/recipe``."""
    files = sorted(RECIPES.glob("*.yaml"))
    if config_dir is not None:
        files += sorted((config_dir / "recipe").glob("*.yaml"))
    return {file.stem: file for file in files}


def groups(config_dir: Path | None = None) -> dict[str, list[str]]:
    """The groups that a command line chooses from, each with its options."""
    found: dict[str, list[str]] = {}
    for root in filter(None, (CONF, config_dir)):
        for file in sorted(root.glob("*/*.yaml")):
            found.setdefault(file.parent.name, []).append(file.stem)
    return found


def describe(recipe: Path) -> str:
    """The one line that a recipe says of itself: its first comment after the package line."""
    comments = (line[1:].strip() for line in recipe.read_text().splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@package")), "")


def compose(arguments: Sequence[str]) -> Composed | None:
    """Let Hydra take the command line; None when it answered it all, as for ``--cfg``.

    Raises ``ConfigError`` where Hydra would print a message of its own and exit.
    """
    config_dir = _config_dir(arguments)
    known = recipes(config_dir)
    refuse_code(known.values(), config_dir)
    chosen = next((w.partition("=")[2] for w in arguments if w.lstrip("+").startswith("recipe=")), None)
    if chosen is not None and chosen not in known:
        raise ConfigError(f"recipe: there is no {chosen!r}; {nearest(chosen, known)}")
    recipe = None if chosen is None else known[chosen]
    available, listed = groups(config_dir), _listed(recipe)
    flags, overrides = split(arguments)
    # The recipe first: what is added after it wins, as everything typed on the command line does.
    overrides.sort(key=lambda word: not word.lstrip("+").startswith("recipe="))
    words = [*flags, *(rewrite(word, available, listed) for word in overrides)]

    import hydra
    from omegaconf import DictConfig, OmegaConf

    _register(known)

    composed: list[DictConfig] = []
    sys.argv = [sys.argv[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed
    with reworded():
        hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(composed.append)()
        if not composed:
            return None
        data = OmegaConf.to_container(composed[0], resolve=True, throw_on_missing=True)
        typed = given(words, recipe, config_dir)
        return Composed(data=cast(dict[str, Any], data), given=typed, recipe=chosen)


def split(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The flags of a command line with their values, and its overrides; Hydra's parser wants them apart."""
    flags: list[str] = []
    overrides: list[str] = []
    for word in words:
        is_flag = word.startswith("-") or (flags and flags[-1] in FLAGS_WITH_VALUE)
        (flags if is_flag else overrides).append(word)
    return flags, overrides


def rewrite(word: str, groups: Mapping[str, Sequence[str]], listed: Iterable[str]) -> str:
    """``a.b=c`` -> ``++a.b=c``, unless it is a deletion, Hydra's own, or chooses from a group by name.

    ``groups`` maps each group to its options, ``listed`` are the groups that a defaults list has already
    (another is added to it). Raises ``ConfigError`` for an option that a group does not have.
    """
    key, equals, value = word.lstrip("+").partition("=")
    if key == "hydra.searchpath":
        raise ConfigError(f"{key}: give a folder of your own by --config-dir.")
    if equals and not key:
        raise ConfigError(
            f"{word}: not understood on the command line; there is no name before the equals sign."
        )
    if not equals or word[0] == "~" or key.split(".")[0] == "hydra" or "/" in key or "@" in key:
        return word
    if key == "recipe":
        return f"+{key}={value}"
    if key not in groups or value.startswith("{"):
        return f"++{key}={value}"
    for option in value.strip("[]").split(","):
        if option.strip() not in groups[key]:
            raise ConfigError(f"{key}: there is no {option.strip()!r}; {nearest(option, groups[key])}")
    return f"{key}={value}" if key in listed else f"+{key}={value}"


def _listed(recipe: Path | None) -> set[str]:
    """The groups that the defaults lists of the primary configuration and of the recipe name."""
    entries = [*_load(CONF / "config.yaml")["defaults"]]
    if recipe is not None:
        found = _load(recipe).get("defaults")
        entries += found if isinstance(found, list) else []
    keys = (key for entry in entries if isinstance(entry, Mapping) for key in entry)
    return {str(key).removeprefix("override ").strip("/ ") for key in keys}


def given(words: Sequence[str], recipe: Path | None, config_dir: Path | None = None) -> dict[str, str]:
    """The paths typed by the user, each with ``"recipe"`` or ``"command line"``; the latter wins.

    An option of a group is typed with all that its file says.
    """
    typed: dict[str, str] = {}
    if recipe is not None:
        content = {key: value for key, value in _load(recipe).items() if key != "defaults"}
        typed |= {path: "recipe" for path, _ in leaves(content)}
    for word in words:
        key, equals, value = word.lstrip("+~").partition("=")
        if equals and word[0] != "-" and not key.startswith("hydra") and key != "recipe":
            inner = _parsed(word) if value.startswith("{") else None
            chosen = {} if inner is not None else _chosen(key, value, config_dir)
            if isinstance(inner, dict) or chosen:
                typed |= {path: "command line" for path, _ in leaves(inner or chosen, key)}
            if not isinstance(inner, dict) and "name" in (chosen or {"name": key}):
                typed[key] = "command line"  # a component is another one with all its options
    return typed


def _chosen(group: str, options: str, config_dir: Path | None) -> dict[str, Any]:
    """What the files of these options of a group say; nothing if it is no group."""
    roots = [root for root in (CONF, config_dir) if root is not None]
    files = [
        root / group / f"{option.strip()}.yaml" for option in options.strip("[]").split(",") for root in roots
    ]
    content: dict[str, Any] = {}
    for file in filter(Path.is_file, files):
        content |= _load(file)
    return content


def _parsed(word: str) -> Any:
    """The value of an override as Hydra's grammar reads it, which is not quite YAML's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word).value()


def refuse_code(recipes: Iterable[Path], config_dir: Path | None = None) -> None:
    """Raise ``ConfigError`` naming every file that reaches for Hydra's node, an import or another folder."""
    problems = []
    files = dict.fromkeys([*([] if config_dir is None else _yaml_files(config_dir)), *recipes])
    for file in files:
        inside = file.relative_to(config_dir).parts if config_dir and config_dir in file.parents else ()
        if inside[:1] == ("hydra",) or re.search(r"@package\s+\S*\bhydra\b", _text(file)):
            problems.append(f"{file}: a file may not place itself in Hydra's own node.")
        for word in _dangerous(_load(file)):
            problems.append(f"{file}: {word!r} is not allowed in a configuration, which must never run code.")
    if problems:
        raise ConfigError(problems)


def _yaml_files(folder: Path) -> Iterator[Path]:
    """Every configuration file below ``folder``, as Hydra would find it: through links too."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()  # a link back up
        seen.add(real)
        yield from (Path(here) / name for name in sorted(files) if name.endswith(".yaml"))


def _dangerous(node: Any, *, top: bool = True) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            text = str(key)
            if text == "_target_" or (top and re.split(r"[./@]", text)[0] == "hydra"):
                yield text
            elif top and text == "defaults":
                yield from (word for word in _words(value) if re.search(r"\bhydra\b|\.\.|//|\$", word))
            else:
                yield from _dangerous(value, top=False)
    elif isinstance(node, list):
        for item in node:
            yield from _dangerous(item, top=False)


def _words(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key)
            yield from _words(value)
    elif isinstance(node, list):
        for item in node:
            yield from _words(item)
    else:
        yield str(node)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(_text(file), _Loader)
    except yaml.YAMLError as error:
        raise _not_yaml(error, file) from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping is wanted, {type(content).__name__} was found.")
    return content or {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start}).") from None


def _not_yaml(error: yaml.YAMLError, file: Path | str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    line = f" line {mark.line + 1}" if mark else ""
    return ConfigError(f"{file}{line}: not valid YAML ({getattr(error, 'problem', None) or error}).")


def _config_dir(arguments: Sequence[str]) -> Path | None:
    """The folder after ``--config-dir``; ``ConfigError`` for one that is missing, or an unknown flag."""
    found = None
    for i, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag.startswith("-") and flag not in FLAGS:
            raise ConfigError(f"{flag}: there is no such flag; {nearest(flag, FLAGS)}")
        if flag in ("--config-dir", "-cd"):
            if found is not None:
                raise ConfigError("--config-dir: it is given twice; put everything into one folder.")
            name = value if equals else "".join(arguments[i + 1 : i + 2])
            if not name or not Path(name).is_dir():
                raise ConfigError(f"--config-dir: there is no folder {name!r}.")
            found = Path(name).absolute()
    return found


def _register(known: Mapping[str, Path]) -> None:
    """Tell Hydra of the recipes that ship: a flat folder becomes the group ``recipe``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.repo.pop("recipe", None)  # of an earlier command line in this process
    for name, file in known.items():
        if file.parent == RECIPES:
            store.store(group="recipe", name=name, node=_load(file), package="_global_")


@contextmanager
def reworded() -> Iterator[None]:
    """Turn what stops a composition into one clear sentence."""
    try:
        yield
    except SystemExit as stop:
        if stop.code:
            raise ConfigError("command line: a flag has no value, or one that it does not know.") from None
        raise
    except yaml.YAMLError as error:  # Hydra's own reader is stricter
        mark = getattr(error, "problem_mark", None)
        raise _not_yaml(error, mark.name if mark else "configuration") from None
    except Exception as error:
        if isinstance(error, ValueError) or type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
            raise ConfigError(_sentence(error)) from None
        raise


def _sentence(error: Any) -> str:
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import MissingMandatoryValue

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = [name for name in error.options or [] if name != option]
        return f"{group or 'config'}: there is no {option!r}; {nearest(option, options)}"
    if isinstance(error, OverrideParseException):
        word = error.override.lstrip("+")
        return (
            f"{word}: not understood on the command line; quote values with special characters, as in "
            f"'key=\"some: text\"'."
        )
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: a value is required and none was given."
    lines = str(error).strip().splitlines()  # the second is a reason, or else advice that would mislead
    text = " ".join(lines[: 2 if lines[0].endswith("raised while composing config:") else 1])
    if several := re.match(r"Ambiguous value for argument '\+*(.*?)=(.*?)'", text):
        key, values = several.groups()
        return (
            f"{key}: {values!r} are several; sweep over them with --multirun, or give a list as [{values}]."
        )
    return f"{getattr(error, 'full_key', None) or 'configuration'}: {text}"
