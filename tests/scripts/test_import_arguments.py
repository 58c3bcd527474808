"""Files of flat arguments become recipes that compose and decode; the page of arguments is current."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

from conf.compose import compose
from trainer.arguments import DIFFERENT_DEFAULTS, flat
from trainer.checks import judged
from trainer.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
TO_BE_ADDED = (
    "model.preset=tiny",
    "processor.tokenizer.train=bpe",
    "data.train.a.path=a.txt",
    "data.train.a.format=text",
    "data.validation.a.path=a.txt",
    "data.validation.a.format=text",
)


def imported(data: Any, folder: Path, *words: str, suffix: str = ".json") -> subprocess.CompletedProcess[str]:
    """What the script says of a file with this content."""
    file = folder / f"training_args{suffix}"
    text = json.dumps(data) if suffix == ".json" else yaml.safe_dump(data)
    file.write_text(data if isinstance(data, str) else text)
    command = [sys.executable, str(ROOT / "scripts/import_arguments.py"), str(file), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def configured(recipe: str, folder: Path) -> RunConfig:
    """What the recipe decodes to, once model and data are added."""
    (folder / "recipe").mkdir()
    (folder / "recipe/mine.yaml").write_text(recipe)
    composed = compose(["--config-dir", str(folder), "+recipe=mine", *TO_BE_ADDED])
    assert composed is not None
    return judged(composed.data, composed.given)


def test_a_dump_of_the_reference_becomes_a_recipe(tmp_path: Path) -> None:
    args = transformers.TrainingArguments(
        "runs/mine",
        use_cpu=True,
        learning_rate=1e-3,
        optim="sgd",
        lr_scheduler_type="cosine",
        lr_scheduler_kwargs={"num_cycles": 1.5},
        warmup_steps=0.1,
        eval_strategy="steps",
        eval_steps=10,
        logging_strategy="no",
        activation_checkpointing=True,
        hub_token="hf_secret",
    )
    done = imported(args.to_dict(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout) == {
        "defaults": [{"override /optimizer": "sgd"}, {"override /schedule": "cosine"}],
        "output_dir": "runs/mine",
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"warmup_steps": 0.1, "num_cycles": 1.5},
        "training": {"gradient_checkpointing": True},
        "evaluation": {"eval_strategy": "steps", "eval_steps": 10},
        "logging": {"logging_strategy": "no"},
        "parallel": {"use_cpu": True},
    }
    lines = done.stdout.splitlines()
    assert lines[:2] == ["# @package _global_", "# training_args: imported from training_args.json."]
    remarks = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
    assert "To be added: `model`" in remarks
    assert all(f"{name} ({why})" in remarks for name, why in DIFFERENT_DEFAULTS.items())
    view = flat(configured(done.stdout, tmp_path))
    for name in ("learning_rate", "optim", "warmup_steps", "eval_steps", "lr_scheduler_kwargs", "output_dir"):
        assert getattr(view, name) == getattr(args, name)


def test_a_dump_of_defaults_asks_for_nothing(tmp_path: Path) -> None:
    done = imported(transformers.Seq2SeqTrainingArguments(use_cpu=True).to_dict(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == {"parallel": {"use_cpu": True}}


def test_a_file_written_by_hand_becomes_a_recipe(tmp_path: Path) -> None:
    data = {
        "do_train": True,
        "do_predict": True,
        "evaluation_strategy": "epoch",
        "no_cuda": True,
        "per_device_train_batch_size": 4,
        "seed": 42,
        "optim_args": "momentum=0.9",
        "optim": "sgd",
    }
    done = imported(data, tmp_path, "--name", "mine", suffix=".yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == "# mine: imported from training_args.yaml."
    assert (
        "\n# do_predict is a run of its own afterwards: task=predict model.path=FOLDER_OF_THE_RUN.\n"
        in done.stdout
    )
    config = configured(done.stdout, tmp_path)
    assert config.task == "train"
    assert config.optimizer.momentum == 0.9
    assert config.evaluation.eval_strategy == "epoch"
    assert (config.parallel.use_cpu, config.training.per_device_train_batch_size) == (True, 4)


def test_what_cannot_be_carried_over_is_said_in_a_sentence_each(tmp_path: Path) -> None:
    data = {
        "sead": 3,
        "tpu_num_cores": 8,
        "fsdp_config": {"min_num_param": 3},
        "learning_rate": 1e-3,
        "past_index": -1,
    }
    done = imported(data, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert set(done.stderr.splitlines()) == {
        "sead: there is no such argument; did you mean 'seed'?",
        "tpu_num_cores: 8 is nothing that version 5.0 has; leave it out.",
        "fsdp_config.min_num_param: no such key; did you mean 'fsdp_config.min_num_params'?",
    }


@pytest.mark.parametrize(
    ("data", "sentences"),
    [
        ({"adam_beta1": 2, "seed": "x"}, [
            "seed: a whole number is wanted, 'x' was given.",
            "adam_beta1: from 0 to below 1 is wanted, 2.0 was given.",
        ]),
        ({"optim": "adamw_apex_fused"}, [
            "optim: 'adamw_apex_fused' needs apex, and torch has its own; use 'adamw_torch_fused'."
        ]),
        ({"ddp_timeout": 60}, [
            "ddp_timeout: 60 is not supported yet, it comes with distributed training; leave it out or at "
            "1800."
        ]),
        ({"logging_nan_inf_filter": True}, [
            "logging_nan_inf_filter: True would hide that a loss is not finite, which is never done; leave "
            "it out."
        ]),
    ],
)  # fmt: skip
def test_values_are_judged_by_their_flat_names(data: Any, sentences: list[str], tmp_path: Path) -> None:
    done = imported(data, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sorted(done.stderr.splitlines()) == sorted(sentences)


def test_a_token_is_not_written_into_a_recipe(tmp_path: Path) -> None:
    done = imported({"hub_token": "hf_secret"}, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    sentence = "hub_token: a token is not written into a recipe; log in to the hub instead."
    assert done.stderr == f"{sentence}\n"


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_file_that_is_none_is_said(text: str, tmp_path: Path) -> None:
    done = imported(text, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/training_args.json: ")
    assert done.stderr.count("\n") == 1


def test_the_page_of_arguments_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts/document_arguments.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    current = (ROOT / "trainer/ARGUMENTS.md").read_text(encoding="utf-8")
    assert current == printed, "print it again: python scripts/document_arguments.py > trainer/ARGUMENTS.md"
