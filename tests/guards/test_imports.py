"""Who may import whom, and what is loaded when."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Package -> packages of ours that it may import, itself aside. Where one stands with a module, only that.
ARROWS: dict[str, set[str]] = {
    "conf": set(),
    "processors": {"conf"},
    "collators": {"conf", "processors"},
    "models": {"conf"},
    "predictor": {"conf", "models", "processors"},
    "trainer": {
        "conf",
        "models",
        "processors",
        "callbacks:CATALOG",
        "callbacks.trackers:TRACKERS",  # their names, which logging.report_to chooses from
        "callbacks.default_flow:DefaultFlowCallback",  # the flow of the loop, always there
        "collators:CATALOG",
    },
    "callbacks": {"conf", "trainer.state", "trainer.secrets", "predictor"},
}
EXCEPTIONS = {
    (
        "trainer/trainer.py",
        "callbacks.progress:ProgressCallback",
    ): "a program names no callbacks by a recipe, and the reference's Trainer shows its progress",
    (
        "trainer/sweeps/leaderboard.py",
        "callbacks.html_report.page:leaderboard_page",
    ): "a sweep's page looks like the reports it links to",
    ("trainer/trainer.py", "collators.default:default_collator"): "a program may name no collator",
    ("trainer/generated.py", "predictor.generate:generate"): "predictions may be generated answers",
    ("trainer/generated.py", "predictor.generate:Draw"): "what it cannot draw with is said before the work",
    (
        "callbacks/html_report/history.py",
        "trainer.reports:is_timing",
    ): "what depends on the clock is drawn apart",
    ("callbacks/best_model.py", "trainer.manifest:Manifest"): "best/ is published as checkpoints are",
    ("callbacks/trackers/tracker.py", "trainer.manifest:Folder"): "a model is saved to be sent",
    (
        "callbacks/trackers/tracker.py",
        "trainer.model_files:save_processor",
    ): "a model is sent with what prepares its inputs",
    ("callbacks/best_model.py", "trainer.manifest:files_of_model"): "best/ is what of one loads anywhere",
    ("callbacks/best_model.py", "trainer.manifest:publish"): "best/ is published as checkpoints are",
    ("callbacks/samples.py", "processors.rendering:ChatTemplate"): "a prompt is rendered as the data was",
    ("callbacks/samples.py", "processors.rendering:stop_ids"): "an answer ends where those of the data end",
}
# Libraries that one place alone may know; what nothing may import is at home nowhere.
HOMES = {
    "hydra": ("conf/compose.py", "trainer/sweeps/space.py"),
    "omegaconf": ("conf/compose.py",),
    "accelerate": ("trainer/ranks/ranks.py",),
    "datasets": ("trainer/data/sources.py",),
    "tokenizers": ("processors/tokenizers/", "models/attention_visualizer.py"),
    "jinja2": ("processors/", "callbacks/html_report/page.py"),
    "huggingface_hub": (
        "conf/logging.py",
        "conf/hub_files.py",
        "trainer/hub.py",
        "trainer/model_card.py",
    ),
    "liger_kernel": ("models/liger.py",),
    "optuna": ("trainer/sweeps/", "trainer/methods/search.py"),
    "psutil": ("trainer/memory.py",),
    "transformers": (),
    "peft": (),
    "trl": (),
    "pickle": (),
}

FILES = sorted(file for package in ARROWS for file in (ROOT / package).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """``module`` or ``module:name`` for everything that a file imports, at any place in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}:{alias.name}" for alias in node.names)


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 60
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == ARROWS.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_follow_the_arrows(file: Path) -> None:
    path = str(file.relative_to(ROOT))
    own = path.split("/")[0]
    for imported in imports(file):
        module = imported.partition(":")[0]
        package = module.split(".")[0]
        if package in HOMES:
            assert path.startswith(HOMES[package] or ("nowhere",)), f"{path} imports {module}"
        if package not in ARROWS or package == own or (path, imported) in EXCEPTIONS:
            continue
        assert {package, module, imported} & ARROWS[own], f"{path} imports {imported}"


def test_exceptions_are_still_needed() -> None:
    for path, imported in EXCEPTIONS:
        assert imported in set(imports(ROOT / path)), f"{path} no longer imports {imported}"
    for library, places in HOMES.items():
        for place in places:
            files = (ROOT / place).rglob("*.py") if place.endswith("/") else [ROOT / place]
            found = (name for file in files for name in imports(file))
            assert any(name.partition(":")[0].split(".")[0] == library for name in found), (library, place)


LIGHT = """
import json, sys
import callbacks, collators, conf, models, processors, predictor, trainer
from conf import compose
from conf.decode import decode
from conf.plugins import options_of, resolve
from conf import logging
from models import options
from trainer import argument_parser, arguments, checks, cli, config, hub, plan, plugins, prepare, reports
from trainer import run_folder, schedules, secrets, state, training_arguments
from trainer.sweeps import plan as sweep_plan, sweep
from trainer.plugins import CATALOGS

SLOW = {"torch", "transformers", "datasets", "accelerate", "huggingface_hub"}
loaded = lambda: sorted(SLOW & sys.modules.keys())
seen = {"packages": loaded()}
for address in CATALOGS.values():
    for name in resolve(address):
        options_of(resolve(address), name, "x")
seen["options"] = loaded()
for name in compose.recipes():
    composed = compose.compose([f"+recipe={name}"])
    checks.judged(composed.data, composed.given)
seen["recipes"] = loaded()
print(json.dumps(seen))
"""


def test_packages_options_and_recipes_load_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"packages": [], "options": [], "recipes": []}


WITHOUT = """
import sys

MISSING = ("transformers", "peft", "trl", "deepspeed", "wandb", "liger_kernel", "pytest", "psutil")

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.split(".")[0] in MISSING else self.finder.find_spec(name, *more)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = ["train.py", *sys.argv[1:]]
from trainer.cli import main
main()
for name in ("transformers", "datasets", "pandas"):
    assert name not in sys.modules, f"{name} was loaded for a run with a warm cache"
"""


def test_a_run_needs_none_of_the_test_dependencies(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    assert train(*tiny, "check=true").status == 0, "the cache is warm now"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *tiny, "training.max_steps=1", "output_dir=run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()
