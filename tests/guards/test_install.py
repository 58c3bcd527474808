"""What an install needs: the constraints name every package that the library and its tests pull in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINNED = {
    canonicalize_name(found[1]): found[2]
    for found in re.finditer(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def pulled(wanted: list[str]) -> Iterator[str]:
    """The packages of some requirements, and all that these need on this machine."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(text, frozenset[str]()) for text in wanted]
    while waiting:
        text, extras = waiting.pop()
        need = Requirement(text)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            continue
        found = canonicalize_name(need.name), frozenset(need.extras)
        if found in seen:
            continue
        seen.add(found)
        if found[0] == PROJECT["name"]:
            waiting += [(text, frozenset[str]()) for extra in need.extras for text in EXTRAS[extra]]
            continue
        yield found[0]
        try:
            waiting += [(text, found[1]) for text in requires(found[0]) or ()]
        except PackageNotFoundError:  # it is of an extra that is not installed here
            continue


def test_constraints_name_whatever_is_installed() -> None:
    names = set(pulled([*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["dev"]]))
    assert {"torch", "accelerate", "huggingface-hub", "liger-kernel", "triton"} <= names
    assert names - PINNED.keys() == set()


def test_what_is_pinned_is_what_is_asked_for() -> None:
    asked = [Requirement(text) for extra in ("test", "dev", "liger") for text in EXTRAS[extra]]
    for need in [*map(Requirement, PROJECT["dependencies"]), *asked]:
        name = canonicalize_name(need.name)
        assert name == PROJECT["name"] or need.specifier.contains(PINNED[name]), str(need)
