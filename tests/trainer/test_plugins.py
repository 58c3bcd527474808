"""Plug-ins of a user: found by name, never taking one that is there, and never named by a configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from conf.errors import ConfigError
from trainer import plugins
from trainer.plugins import load_plugins

SHOUT = '''
from dataclasses import dataclass
from trainer.state import TrainerCallback

CATALOG = {"callbacks": {"shout": "shout_plugin:Shout"}}

@dataclass(kw_only=True)
class Shout(TrainerCallback):
    """Says every loss aloud."""
    mark: str = "!"

    def on_log(self, args, state, control, **kwargs):
        print("LOSS", kwargs["logs"].get("loss"), self.mark)
'''
# An objective and a schedule of one's own: options apart from the thing, which is given them.
METHOD = '''
from dataclasses import dataclass
from trainer.objectives.options import CausalLMOptions
from trainer.schedules import Constant, FactorRates

@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The usual loss, scaled."""
    factor: float = 2.0

def build(options):
    from trainer.objectives.causal_lm import CausalLM

    class Objective(CausalLM):
        coefficients = {"loss": options.factor}

    return Objective(CausalLMOptions())

def halved(options, optimizer, max_steps):
    return FactorRates(optimizer, lambda step: 0.5)

CATALOG = {
    "objectives": {"scaled": ("method_plugin:Scaled", "method_plugin:build")},
    "schedules": {"halved": ("trainer.schedules:Constant", "method_plugin:halved")},
}
'''

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path / f"{name}.py")

    return written


def test_a_callback_of_ones_own_by_name(train: Any, tiny: Sequence[str], write: Write) -> None:
    file = write("shout_plugin", SHOUT)
    done = train(*tiny, f"plugins={file}", "callbacks.shout={}", "callbacks.other={name: shout, mark: '?'}")
    assert done.status == 0, done.error
    said = [line for line in done.out.splitlines() if line.startswith("LOSS")]
    assert said[0].endswith(" !")
    assert said[1].endswith(" ?")
    digest = sha256(SHOUT.encode()).hexdigest()
    (noted,) = (line for line in done.out.splitlines() if line.startswith("plug-in "))
    assert noted.split() == ["plug-in", "shout_plugin.py", f"({digest[:12]})"]
    assert yaml.safe_load((done.folder / "plan.yaml").read_text())["plugins"] == {"shout_plugin.py": digest}


def test_a_resume_without_it_names_what_is_missing(train: Any, tiny: Sequence[str], write: Write) -> None:
    import sys

    from callbacks import CATALOG

    train(*tiny, f"plugins={write('shout_plugin', SHOUT)}", "callbacks.shout={}")
    del CATALOG["shout"], sys.modules["shout_plugin"]  # as in another process
    done = train("resume=run/checkpoint-2", "training.max_steps=3")
    assert done.status == 2
    unknown, missing = str(done.error).splitlines()
    assert unknown.startswith("callbacks.shout.name: there is no 'shout'; known are ")
    assert missing == "plugins: the run was trained with shout_plugin.py; give it again by plugins=FILE."
    done = train("resume=run/checkpoint-2", "training.max_steps=3", "plugins=shout_plugin.py")
    assert done.status == 0, done.error


def test_a_method_of_ones_own(train: Any, tiny: Sequence[str], write: Write) -> None:
    words = (f"plugins={write('method_plugin', METHOD)}", "objective.name=scaled", "schedule.name=halved")
    done = train(*tiny, *words, "objective.factor=3", "optimizer.learning_rate=1e-3")
    assert done.status == 0, done.error
    assert done.run.objective.coefficients == {"loss": 3.0}
    assert {line["learning_rate"] for line in done.metrics if "loss" in line} == {5e-4}
    done = train(*tiny, *words[1:], "objective.factr=3", "output_dir=other")
    assert str(done.error) == "objective.factr: no such key; did you mean 'objective.factor'?"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "plugins: {file} has no CATALOG; give one like {{'callbacks': {{'mine': 'file:Class'}}}}."),
        ("CATALOG = ['x']", "plugins: {file} has no CATALOG; give one like"),
        ("CATALOG = {'callback': {}}", "plugins: {file} offers 'callback'; did you mean 'callbacks'?"),
        (
            "CATALOG = {'callbacks': {'progress': 'a:b'}}",
            "plugins: {file} offers callbacks 'progress', a name that is",
        ),
        (
            "import nothing_like_it",
            "plugins: {file} cannot be imported (ModuleNotFoundError: No module named",
        ),
        ("x = ", "plugins: {file} cannot be imported (SyntaxError: invalid syntax"),
    ],
)
def test_a_plug_in_that_cannot_be(text: str, said: str, write: Write) -> None:
    file = write("bad_plugin", text)
    with pytest.raises(ConfigError) as raised:
        load_plugins([file])
    assert str(raised.value).startswith(said.format(file=file))


def test_a_file_that_is_not_there_or_has_a_module_of_its_name(tmp_path: Path, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"^plugins: there is no file 'nowhere\.py'\.$"):
        load_plugins(["nowhere.py"])
    file = write("json", "CATALOG = {}")
    with pytest.raises(ConfigError) as raised:
        load_plugins([file])
    assert str(raised.value) == f"plugins: a module 'json' exists already; give {file!r} another name."


def test_a_plug_in_that_broke_can_be_mended(write: Write) -> None:
    with pytest.raises(ConfigError):
        load_plugins([write("mended_plugin", "x = ")])
    assert load_plugins([write("mended_plugin", "CATALOG = {}")]).keys() == {"mended_plugin.py"}


def test_installed_plug_ins_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from callbacks import CATALOG

    offered = SimpleNamespace(CATALOG={"callbacks": {"installed": "somewhere:Thing"}})
    entry = SimpleNamespace(name="their-plugin", load=lambda: offered, dist=SimpleNamespace(version="1.2"))

    def entry_points(*, group: str) -> list[EntryPoint]:
        assert group == "stockpot.plugins"
        return [entry]  # type: ignore[list-item]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    assert load_plugins([]) == {"their-plugin": "1.2"}
    assert CATALOG["installed"] == "somewhere:Thing"


def test_a_configuration_cannot_name_one(
    train: Any, tiny: Sequence[str], tmp_path: Path, write: Write
) -> None:
    (tmp_path / "recipe").mkdir()
    recipe = f"# @package _global_\nplugins: {write('sneaky_plugin', 'raise SystemExit(9)')}\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(recipe)
    done = train("--config-dir", str(tmp_path), "+recipe=mine", *tiny[1:])
    assert done.status == 2
    assert "plugins: no such key;" in str(done.error)
