"""From a command line to one plain mapping: Hydra composes, nothing here judges a key.

Three things are done around Hydra so that its own checks cannot mislead: a plain ``a.b=c`` is passed on as
``++a.b=c`` (``conf.decode`` judges keys, with all defaults at hand, and never advises a ``+``); what stops a
composition is reworded; and configuration files that reach for Hydra's own node or an import are refused
before Hydra sees them, since a configuration must never be able to run code.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conf.decode import leaves
from conf.errors import ConfigError
from conf.plugins import nearest

CONF = Path(__file__).parent
RECIPES = CONF.parent / "recipes"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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
    refuse_code([*([] if config_dir is None else config_dir.rglob("*.yaml")), *known.values()])
    words = [rewrite(word, groups(config_dir)) for word in arguments]
    chosen = next((word.partition("=")[2] for word in words if word.startswith("+recipe=")), None)
    if chosen is not None and chosen not in known and not re.search(r"[,(*]", chosen):
        raise ConfigError(f"recipe: there is no {chosen!r}; {nearest(chosen, known)}")

    import hydra
    from omegaconf import DictConfig, OmegaConf

    _register(known)

    composed: list[Composed] = []

    def job(config: DictConfig) -> None:
        data = OmegaConf.to_container(config, resolve=True)
        assert isinstance(data, dict)
        composed.append(Composed(data=data, given=given(words, known.get(chosen or "")), recipe=chosen))

    sys.argv = [sys.argv[0], *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of being printed
    with _reworded():
        hydra.main(config_path="pkg://conf", config_name="config", version_base="1.3")(job)()
    return composed[0] if composed else None


def rewrite(word: str, groups: Collection[str]) -> str:
    """``a.b=c`` -> ``++a.b=c`` unless it chooses from a group, is already prefixed, or is Hydra's own."""
    key, equals, _ = word.partition("=")
    if not equals or word[0] in "-+~" or key.split(".")[0] == "hydra" or "/" in key or "@" in key:
        return word
    if key == "recipe":
        return "+" + word
    return word if key in groups else "++" + word


def given(words: Sequence[str], recipe: Path | None) -> dict[str, str]:
    """The paths typed by the user, each with ``"recipe"`` or ``"command line"``; the latter wins."""
    typed: dict[str, str] = {}
    if recipe is not None:
        content = {key: value for key, value in _load(recipe).items() if key != "defaults"}
        typed |= {path: "recipe" for path, _ in leaves(content)}
    for word in words:
        key, equals, value = word.lstrip("+~").partition("=")
        if equals and word[0] != "-" and not key.startswith("hydra") and key != "recipe":
            inner = yaml.load(value, _Loader) if value.startswith("{") else None
            nested = [path for path, _ in leaves(inner, key)] if isinstance(inner, dict) else [key]
            typed |= dict.fromkeys(nested, "command line")
    return typed


def refuse_code(files: Sequence[Path]) -> None:
    """Raise ``ConfigError`` naming every file that reaches for Hydra's node or an import."""
    problems = []
    for file in files:
        if re.search(r"^#\s*@package\s+hydra", file.read_text(), re.MULTILINE):
            problems.append(f"{file}: a file may not place itself in Hydra's own node.")
        for word in _dangerous(_load(file)):
            problems.append(f"{file}: {word!r} is not allowed in a configuration, which must never run code.")
    if problems:
        raise ConfigError(problems)


def _dangerous(node: Any, *, top: bool = True) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            text = str(key)
            if text == "_target_" or (top and re.split(r"[./@]", text)[0] == "hydra"):
                yield text
            elif top and text == "defaults":
                yield from (word for word in _words(value) if re.search(r"\bhydra\b", word))
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
        content = yaml.load(file.read_text(), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not valid YAML ({getattr(error, 'problem', error)}).") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{file}: a mapping is wanted, {type(content).__name__} was found.")
    return content or {}


def _config_dir(arguments: Sequence[str]) -> Path | None:
    for i, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = Path(value if equals else arguments[i + 1] if i + 1 < len(arguments) else "")
            if not folder.is_dir():
                raise ConfigError(f"--config-dir: there is no folder {str(folder)!r}.")
            return folder.absolute()
    return None


def _register(known: Mapping[str, Path]) -> None:
    """Tell Hydra of the recipes that ship: a flat folder becomes the group ``recipe``."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, file in known.items():
        if file.parent == RECIPES:
            store.store(group="recipe", name=name, node=_load(file), package="_global_")


class _reworded:  # noqa: N801 - reads as a verb at its one use
    """Turn what stops a composition into one clear sentence."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or type(error).__module__.split(".")[0] not in ("hydra", "omegaconf"):
            return
        from hydra.errors import MissingConfigException, OverrideParseException

        if isinstance(error, MissingConfigException) and error.missing_cfg_file:
            group, _, option = error.missing_cfg_file.rpartition("/")
            options = [name for name in error.options or [] if name != option]
            raise ConfigError(
                f"{group or 'config'}: there is no {option!r}; {nearest(option, options)}"
            ) from None
        if isinstance(error, OverrideParseException):
            word = error.override.lstrip("+")
            raise ConfigError(
                f"{word}: not understood on the command line; quote values with special characters, as in "
                f"'key=\"some: text\"'."
            ) from None
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"configuration: {first}") from None
