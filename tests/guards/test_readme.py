"""What the README says works: its commands, its recipe, its plug-in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import models
from conf import compose
from conf.errors import CheckpointError, ConfigError
from conf.plugins import resolve
from models import BertConfig, BertForMaskedLM
from processors import TrainOptions, train_tokenizer
from trainer import cli
from trainer.checks import judged, without_foreign
from trainer.sweeps import space

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in FENCED if kind == "sh" for line in block.splitlines() if line.strip()]
LAUNCHERS = ("accelerate launch", "ACCELERATE_USE_CPU=true accelerate launch")
# Lines that are no training command, with the reason.
OTHERS = ("pip install", "python scripts/import_gguf.py")
# What the words of these commands need before they can be decoded, and what they therefore end with here.
NEEDS_A_RUN = {
    "train.py resume=runs/austen/checkpoint-500": "resume: there is no folder 'runs/austen/checkpoint-500'"
}


def trained(command: str) -> list[str] | None:
    """The words of a training command, without its launcher; None for a line of another kind."""
    if command.startswith("train.py"):
        return shlex.split(command)[1:]
    if command.startswith(LAUNCHERS):
        after = re.search(r"(?:-m trainer|scripts/train\.py) (.*)$", command)
        assert after is not None, command
        return shlex.split(after[1])
    return None


def test_every_command_is_looked_at() -> None:
    assert len(COMMANDS) >= 12
    for command in COMMANDS:
        assert trained(command) is not None or command.startswith(OTHERS), f"what is this? {command}"
    assert NEEDS_A_RUN.keys() <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if trained(c) is not None])
def test_every_command_composes_and_decodes(
    command: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = trained(command)
    assert words is not None
    if not words:
        cli.run_command(words)
        assert "sft_llama" in capsys.readouterr().out
        return
    if command in NEEDS_A_RUN:
        with pytest.raises((ConfigError, CheckpointError)) as raised:
            cli.run_command(words)
        assert str(raised.value).startswith(NEEDS_A_RUN[command])
        return
    jobs = [words]
    if "--multirun" in words:
        words.remove("--multirun")
        asked = space.read(words)
        own = [word for word in asked.own if not word.startswith("resume=")]
        jobs = [[*asked.words(values), *own] for values in asked.corners()]
        assert len(jobs) > 1
    for job in jobs:
        composed = compose.compose(job)
        assert composed is not None
        data, _ = without_foreign(composed.data, composed.given)
        judged(data, composed.given)


def _block(kind: str, first: str) -> str:
    (found,) = (block for name, block in FENCED if name == kind and block.startswith(first))
    return found


PARTS = [block for kind, block in FENCED if kind == "yaml" and not block.startswith("# @package")]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.partition(":")[0])
def test_parts_of_a_recipe_train(part: str, train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    recipe = (compose.RECIPES / "sft_llama.yaml").read_text(encoding="utf-8")
    content = yaml.load(recipe, yaml.CSafeLoader)
    for section, values in yaml.safe_load(part).items():
        content[section] = {**content.get(section, {}), **values}
    (tmp_path / "recipe").mkdir()
    text = f"# @package _global_\n{yaml.safe_dump(content, sort_keys=False)}"
    (tmp_path / "recipe/part.yaml").write_text(text, encoding="utf-8")
    trackers = "logging.report_to=[tensorboard]"  # those that need no account
    done = train("--config-dir", str(tmp_path), "+recipe=part", *tiny[1:], trackers, "callbacks.wandb=null")
    assert done.status == 0, done.error


def test_the_recipe_decodes(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(_block("yaml", "# @package"), encoding="utf-8")
    assert "train.py --config-dir DIR +recipe=mine" in TEXT
    composed = compose.compose(["--config-dir", str(tmp_path), "+recipe=mine"])
    assert composed is not None
    config = judged(composed.data, composed.given)
    assert config.callbacks["patience"].options.early_stopping_patience == 2
    assert compose.describe(tmp_path / "recipe" / "mine.yaml").startswith("What it does, in one line")


def test_the_plug_in_runs(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "my_plugin.py").write_text(_block("python", "from dataclasses"), encoding="utf-8")
    command = re.search(r"`train\.py (plugins=\S+) \+recipe=sft_llama (\S+)`", TEXT)
    assert command is not None
    done = train(*tiny, command[1], command[2], "logging.logging_steps=1")
    assert done.status == 0, done.error
    shouted = [line for line in done.out.splitlines() if line.endswith(" indeed")]
    assert len(shouted) == 2, "a loss a step"


def test_the_models_answer(tmp_path: Path, capsys: Any) -> None:
    options = TrainOptions(train="wordpiece", vocab_size=200)
    train_tokenizer(["Fine. Not at all. " * 9], options).save(tmp_path)
    BertForMaskedLM(BertConfig.preset("tiny"), seed=0).save_pretrained(tmp_path)
    program = _block("python", "from models").replace("FOLDER", str(tmp_path))
    exec(compile(program, "README.md", "exec"), {"__name__": "program"})
    assert capsys.readouterr().out.startswith("tensor([[")


def test_the_presets_are_those_there_are() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]+) \|$", TEXT, re.MULTILINE))
    for family, (config, _) in models.CATALOG.items():
        assert rows[family] == ", ".join(resolve(config).presets), family


def test_the_program_runs(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(_block("python", "import torch"), "README.md", "exec"), {"__name__": "program"})
    assert float(capsys.readouterr().out.splitlines()[-1]) < 1e-3, "the line was found"
    assert (tmp_path / "runs" / "line" / "model.safetensors").is_file()


def test_the_folders_it_pictures_are_there() -> None:
    (picture,) = (block for kind, block in FENCED if not kind and block.startswith("conf/"))
    pictured = re.findall(r"^(\w+)/ ", picture, re.MULTILINE)
    there = {
        path.name
        for path in ROOT.iterdir()
        if (path.is_dir() and any(path.glob("*.py"))) or path.name == "recipes"
    }
    assert set(pictured) == there
