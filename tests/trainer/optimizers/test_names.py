"""Every optimizer of the reference is here by its name, or refused by a sentence."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.training_args import OptimizerNames

from conf.compose import compose
from conf.decode import decode
from conf.errors import ConfigError
from conf.plugins import options_of, thing_of
from tests.trainer.optimizers.random_problem import after, groups, same, weights
from trainer.arguments import run_config
from trainer.config import RunConfig
from trainer.optimizers import CATALOG
from trainer.optimizers.options import OptimizerOptions
from trainer.trainer import Trainer
from trainer.training_arguments import TrainingArguments

pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")

NAMES = [*(name.value for name in OptimizerNames), "adamw_apex_fused"]
REFUSED = {
    "adamw_torch_xla": "is for TPUs, which nothing here runs on",
    "adamw_torch_npu_fused": "is for NPUs, which nothing here runs on",
    "adamw_apex_fused": "needs apex, and torch has its own; use 'adamw_torch_fused'",
}
HERE = [name for name in NAMES if name not in REFUSED]
TARGETED = [name for name in HERE if name.startswith(("galore", "apollo"))]
# What the reference makes of another class, which is not the package's here, or cannot make without a model.
OWN = {*TARGETED, "adafactor", "lomo", "adalomo", "adamw_anyprecision"}


def flat_arguments(name: str, folder: Path, **more: Any) -> TrainingArguments:
    targets = {"optim_target_modules": "all-linear"} if name in TARGETED else {}
    return TrainingArguments(output_dir=str(folder), optim=name, use_cpu=True, **targets, **more)


def test_there_are_42() -> None:
    assert len(set(NAMES)) == 42
    assert set(HERE) <= set(CATALOG)


@pytest.mark.parametrize("name", CATALOG)
def test_a_recipe_and_a_program_name_it(name: str, tmp_path: Path) -> None:
    options = options_of(CATALOG, name, "optimizer.name")
    assert issubclass(options, OptimizerOptions)
    assert callable(thing_of(CATALOG, name, "optimizer.name"))
    composed = compose(["+recipe=sft_llama", f"optimizer={name}"])
    assert composed is not None
    assert composed.data["optimizer"]["name"] == name
    if name in TARGETED:
        composed.data["optimizer"]["optim_target_modules"] = "all-linear"
    section = decode(RunConfig, composed.data).optimizer
    assert (section.name, type(section.options)) == (name, options)
    targets = {"optim_target_modules": "all-linear"} if name in TARGETED else {}
    args = TrainingArguments(output_dir=str(tmp_path), optim=name, **targets)
    assert (run_config(args)[0].optimizer.name, args.optim) == (name, name)


def test_each_has_a_file_and_each_file_a_name() -> None:
    folder = Path(__file__).parents[3] / "conf" / "optimizer"
    assert {file.stem for file in folder.glob("*.yaml")} == set(CATALOG)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_other_hardware_or_apex_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^optim: '{name}' {REFUSED[name]}"):
        run_config(TrainingArguments(output_dir=str(tmp_path), optim=name))
    with pytest.raises(ConfigError, match=rf"optimizer\.name: there is no '{name}'; did you mean 'adamw"):
        decode(RunConfig, {"optimizer": {"name": name}})


@pytest.mark.parametrize("name", CATALOG)
def test_a_program_is_told_class_and_arguments(name: str, tmp_path: Path) -> None:
    args = flat_arguments(name, tmp_path, learning_rate=0.02, max_grad_norm=0.0)
    kind, arguments = Trainer.get_optimizer_cls_and_kwargs(args)
    make, options = thing_of(CATALOG, name, "optimizer.name"), run_config(args)[0].optimizer.options
    told = after(lambda found: kind(groups(found), **arguments), steps=7)
    assert same(told, after(lambda found: make(options, groups(found)), steps=7))
    assert not same(told, weights())


@pytest.mark.parametrize("name", sorted(set(HERE) - OWN))
def test_they_are_the_references(name: str, tmp_path: Path) -> None:
    given = {"learning_rate": 0.02, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    has = {
        field: value
        for field, value in given.items()
        if field in inspect.signature(options_of(CATALOG, name, "optimizer.name")).parameters
    }
    ours, arguments = Trainer.get_optimizer_cls_and_kwargs(flat_arguments(name, tmp_path, **has))
    theirs, expected = transformers.Trainer.get_optimizer_cls_and_kwargs(
        transformers.TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True, **has)
    )
    assert issubclass(ours, theirs)
    signature = inspect.signature(theirs).parameters
    whole = {key: parameter.default for key, parameter in signature.items()} | arguments
    expected.pop("weight_decay", None)  # which is the groups'
    assert {key: whole[key] for key in expected} == expected
