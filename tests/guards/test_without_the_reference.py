"""Every recipe and optimizer runs where ``transformers``, ``peft`` and ``trl`` cannot be imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conf import compose
from trainer.optimizers import CATALOG

ROOT = Path(__file__).resolve().parents[2]

BLOCKED = """
import json, sys


BLOCKED = {"transformers", "peft", "trl", "galore_torch", "apollo_torch", "lomo_optim"}


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)


sys.meta_path.insert(0, Blocked())
import torch
from torch import nn

from conf.plugins import options_of, thing_of
from trainer.cli import run_command
from trainer.optimizers import CATALOG
from trainer.optimizers.groups import parameter_groups

torch.compiler.set_stance("force_eager")
done = []
for name in CATALOG:
    model = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 8))
    names = {key: key for key, _ in model.named_parameters()}
    kind = options_of(CATALOG, name, "")
    targets = "all-linear" if name.startswith(("galore", "apollo")) else None
    options = kind(**({"optim_target_modules": targets, "rank": 4} if targets else {}))
    optimizer = thing_of(CATALOG, name, "")(options, parameter_groups(model, names, options))
    getattr(optimizer, "train", lambda: None)()
    model(torch.randn(2, 64)).square().mean().backward()
    optimizer.step()
    done.append(name)
for words in json.loads(sys.argv[1]):
    run_command(words)
    done.append(words[0])
print("\\n" + json.dumps(done))
"""


def test_every_optimizer_and_recipe_runs_without_it(tiny: Sequence[str], tmp_path: Path) -> None:
    commands = [
        [f"+recipe={name}", *tiny[1:], f"output_dir={tmp_path / name}", "callbacks.progress=null"]
        for name in compose.recipes()
    ]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [*CATALOG, *(words[0] for words in commands)]
