"""The flat arguments of Python programs: what was given, setters, as data, this process among its equals."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import logging
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from conf.errors import ConfigError
from trainer.arguments import run_config
from trainer.training_arguments import (
    HubStrategy,
    IntervalStrategy,
    SaveStrategy,
    Seq2SeqTrainingArguments,
    TrainingArguments,
    defaults,
)

ROOT = Path(__file__).resolve().parents[2]


def test_the_signature_is_that_of_the_page() -> None:
    names = list(inspect.signature(TrainingArguments).parameters)
    assert len(names) == 109
    assert names[:6] == [
        "output_dir",
        "do_train",
        "do_eval",
        "do_predict",
        "eval_strategy",
        "prediction_loss_only",
    ]
    assert names[-1] == "use_cache"
    assert list(inspect.signature(Seq2SeqTrainingArguments).parameters)[109:] == [
        "sortish_sampler",
        "predict_with_generate",
        "generation_max_length",
        "generation_num_beams",
        "generation_config",
    ]


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from trainer import argument_parser, arguments, training_arguments as t;"
        "a = t.TrainingArguments('x', learning_rate=1); arguments.flat(arguments.run_config(a)[0]);"
        "a.to_sanitized_dict(); a.get_warmup_steps(3); a.world_size; a.get_process_log_level()\n"
        "with a.main_process_first(): print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


# -- what was given ------------------------------------------------------------------------------------


def test_given_are_arguments_passed_and_assigned() -> None:
    args = TrainingArguments("out", learning_rate=5e-5)
    assert args.given == {"output_dir", "learning_rate"}, "a default that is written out is given"
    args.seed = 42
    assert args.given == {"output_dir", "learning_rate", "seed"}
    assert TrainingArguments().given == frozenset()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda args: pickle.loads(pickle.dumps(args))])
def test_a_copy_knows_what_was_given(again: Any) -> None:
    args = TrainingArguments("out", eval_strategy="steps")
    other = again(args)
    assert (other, other.given) == (args, args.given)
    other.seed = 3
    assert other.given == args.given | {"seed"}
    assert "seed" not in args.given


def test_writing_everything_out_gives_what_is_no_default() -> None:
    args = dataclasses.replace(TrainingArguments("out", learning_rate=1e-3), seed=7)
    assert args.given == {"output_dir", "learning_rate", "seed"}
    assert TrainingArguments(**defaults(TrainingArguments)).given == frozenset()


def test_a_subclass_has_arguments_of_its_own() -> None:
    @dataclass
    class Mine(TrainingArguments):
        temperature: float = 1.0

    args = Mine("out", temperature=2.0)
    args.temperature = 3.0
    assert args.given == {"output_dir", "temperature"}
    config, given = run_config(args)
    assert (config.output_dir, given) == ("out", {"output_dir": "python"})


# -- strategies ----------------------------------------------------------------------------------------


def test_strategies_are_enums_and_text() -> None:
    args = TrainingArguments(eval_strategy="steps", save_strategy=SaveStrategy.BEST, logging_strategy=False)  # type: ignore[arg-type]
    assert args.eval_strategy is IntervalStrategy.STEPS
    assert args.eval_strategy == "steps" == transformers.IntervalStrategy.STEPS
    assert (args.save_strategy, args.logging_strategy, args.hub_strategy) == ("best", "no", "every_save")
    args.hub_strategy = "end"
    assert args.hub_strategy is HubStrategy.END
    args.eval_strategy = transformers.IntervalStrategy.EPOCH  # type: ignore[assignment]
    assert args.eval_strategy is IntervalStrategy.EPOCH
    with pytest.raises(ConfigError) as error:
        TrainingArguments(eval_strategy="step")
    assert str(error.value) == "eval_strategy: 'step' is none of its values; did you mean 'steps'?"


@pytest.mark.parametrize("name", ["IntervalStrategy", "SaveStrategy", "HubStrategy"])
def test_strategies_are_the_references(name: str) -> None:
    ours = {"IntervalStrategy": IntervalStrategy, "SaveStrategy": SaveStrategy, "HubStrategy": HubStrategy}[
        name
    ]
    theirs = getattr(transformers.trainer_utils, name)
    assert {(item.name, item.value) for item in ours} == {(item.name, item.value) for item in theirs}


# -- setters -------------------------------------------------------------------------------------------

# Setter -> (its arguments, the values that it sets, those given)
SETTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "set_training": (
        {
            "learning_rate": 1e-4,
            "batch_size": 32,
            "weight_decay": 0.1,
            "num_epochs": 4,
            "max_steps": 9,
            "gradient_accumulation_steps": 2,
            "seed": 3,
        },
        {
            "do_train": True,
            "per_device_train_batch_size": 32,
            "num_train_epochs": 4,
            "max_steps": 9,
            "seed": 3,
        },
    ),
    "set_evaluate": (
        {"strategy": "steps", "steps": 100, "batch_size": 3, "accumulation_steps": 2, "loss_only": True},
        {"do_eval": True, "eval_strategy": "steps", "eval_steps": 100, "eval_accumulation_steps": 2},
    ),
    "set_testing": (
        {"batch_size": 32, "loss_only": True},
        {"do_predict": True, "per_device_eval_batch_size": 32, "prediction_loss_only": True},
    ),
    "set_save": (
        {"strategy": "steps", "steps": 100, "total_limit": 2, "on_each_node": True},
        {"save_steps": 100, "save_total_limit": 2, "save_on_each_node": True},
    ),
    "set_logging": (
        {"strategy": "steps", "steps": 100, "level": "info", "first_step": True, "replica_level": "error"},
        {"logging_steps": 100, "log_level": "info", "log_level_replica": "error", "log_on_each_node": False},
    ),
    "set_push_to_hub": (
        {
            "model_id": "me/awesome-model",
            "strategy": "end",
            "token": "t",
            "private_repo": True,
            "revision": "r",
        },
        {"push_to_hub": True, "hub_model_id": "me/awesome-model", "hub_strategy": "end", "hub_revision": "r"},
    ),
    "set_optimizer": (
        {"name": "adamw_torch", "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6, "args": "a=b"},
        {"optim": "adamw_torch", "adam_beta1": 0.8, "adam_epsilon": 1e-6, "optim_args": "a=b"},
    ),
    "set_lr_scheduler": (
        {"name": "cosine", "num_epochs": 2, "max_steps": 5, "warmup_steps": 0.05},
        {"lr_scheduler_type": "cosine", "num_train_epochs": 2, "warmup_steps": 0.05},
    ),
    "set_dataloader": (
        {
            "train_batch_size": 16,
            "eval_batch_size": 64,
            "drop_last": True,
            "num_workers": 2,
            "pin_memory": False,
            "prefetch_factor": 3,
            "sampler_seed": 5,
        },
        {"per_device_train_batch_size": 16, "dataloader_num_workers": 2, "data_seed": 5},
    ),
}


@pytest.mark.parametrize("setter", SETTERS)
def test_a_setter_sets_what_the_references_does(setter: str) -> None:
    passed, some = SETTERS[setter]
    ours, theirs = TrainingArguments("out"), transformers.TrainingArguments("out", use_cpu=True)
    before = {name: getattr(theirs, name) for name in defaults(TrainingArguments) if hasattr(theirs, name)}
    assert getattr(ours, setter)(**passed) is ours
    getattr(theirs, setter)(**passed)
    assert {name: getattr(ours, name) for name in some} == some
    for name, value in before.items():
        if getattr(theirs, name) != value:
            assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("setter", SETTERS)
def test_a_setter_has_the_references_parameters(setter: str) -> None:
    ours = inspect.signature(getattr(TrainingArguments, setter)).parameters
    theirs = inspect.signature(getattr(transformers.TrainingArguments, setter)).parameters
    # later versions renamed gradient checkpointing and dropped warmup_ratio; the page has them
    later = {"activation_checkpointing", "multiprocessing_context", "in_order"}
    shared = [name for name in theirs if name not in later]
    assert [name for name in ours if name in shared] == shared
    assert set(ours) - set(shared) <= {"warmup_ratio"}
    for name in shared:
        if name != "gradient_checkpointing":
            assert ours[name].default == theirs[name].default


def test_a_setter_gives_what_is_passed_to_it() -> None:
    args = TrainingArguments("out").set_save("no").set_optimizer("sgd", 0.1)
    assert args.given == {"output_dir", "save_strategy", "optim", "learning_rate"}
    config, given = run_config(args)
    assert config.optimizer.name == "sgd", "the setter's beta1 is no option that was asked for"
    assert given.keys() == {
        "output_dir",
        "checkpoint.save_strategy",
        "optimizer.name",
        "optimizer.learning_rate",
    }
    config, given = run_config(TrainingArguments().set_evaluate("epoch", batch_size=4))
    assert config.evaluation.eval_steps == 500, "the setter's own default is a value all the same"
    assert "evaluation.eval_steps" not in given


def test_a_setter_judges_its_arguments() -> None:
    with pytest.raises(ConfigError, match=r"^save_strategy: 'never' is none of its values; known are"):
        TrainingArguments().set_save("never")
    with pytest.raises(TypeError, match="step"):
        TrainingArguments().set_save(step=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"eval_steps: whole steps, .* is wanted, 0"):
        run_config(TrainingArguments().set_evaluate("steps", steps=0))


# -- as data -------------------------------------------------------------------------------------------


def test_no_token_leaves_by_any_door() -> None:
    args = TrainingArguments("out", hub_token="hf_secret")
    assert args.to_dict()["hub_token"] == "<HUB_TOKEN>"
    assert args.hub_token == "hf_secret"
    for text in (repr(args), str(args), args.to_json_string(), str(args.to_sanitized_dict())):
        assert "hf_secret" not in text
    assert TrainingArguments().to_dict()["hub_token"] == "<HUB_TOKEN>"


def test_as_data_it_is_what_the_reference_writes() -> None:
    values: dict[str, Any] = {
        "output_dir": "out",
        "learning_rate": 1e-3,
        "eval_strategy": "steps",
        "eval_steps": 5,
        "save_strategy": "epoch",
        "hub_strategy": "end",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "accelerator_config": {"split_batches": True},
    }
    ours, theirs = TrainingArguments(**values).to_dict(), transformers.TrainingArguments(**values).to_dict()
    written = {name: value for name, value in theirs.items() if name in values}
    assert {name: ours[name] for name in values} == written | {"accelerator_config": {"split_batches": True}}
    assert json.loads(TrainingArguments(**values).to_json_string()) == ours
    assert all(type(value) is not IntervalStrategy for value in ours.values())


def test_foreign_configurations_become_data() -> None:
    from accelerate.parallelism_config import ParallelismConfig
    from transformers.trainer_pt_utils import AcceleratorConfig

    args = Seq2SeqTrainingArguments(
        accelerator_config=AcceleratorConfig(split_batches=True),  # type: ignore[arg-type]
        parallelism_config=ParallelismConfig(tp_size=2),  # type: ignore[arg-type]
        generation_config=transformers.GenerationConfig(num_beams=3),  # type: ignore[arg-type]
    )
    data = json.loads(args.to_json_string())
    assert data["accelerator_config"]["split_batches"] is True
    assert data["parallelism_config"]["tp_size"] == 2
    assert data["generation_config"]["num_beams"] == 3


def test_sanitized_it_is_numbers_and_text() -> None:
    data = TrainingArguments(label_names=["a"], per_device_train_batch_size=3).to_sanitized_dict()
    assert {type(value) for value in data.values()} == {bool, int, float, str}
    assert (data["label_names"], data["output_dir"]) == ("['a']", "None")
    assert (data["train_batch_size"], data["eval_batch_size"]) == (3, 8)


# -- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 0.05, 0.999, 1, 7, 7.0])
@pytest.mark.parametrize("steps", [1, 10, 333])
def test_warmup_steps_are_the_references(warmup: float, steps: int) -> None:
    theirs = transformers.TrainingArguments("out", warmup_steps=warmup, use_cpu=True)
    assert TrainingArguments(warmup_steps=warmup).get_warmup_steps(steps) == theirs.get_warmup_steps(steps)


def test_a_ratio_is_a_share_of_the_steps() -> None:
    assert TrainingArguments(warmup_ratio=0.1).get_warmup_steps(25) == 3


# -- this process among its equals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "replica", "each_node", "rank", "local_rank", "expected"),
    [
        ("debug", "error", True, 0, 0, logging.DEBUG),
        ("debug", "error", True, 2, 0, logging.DEBUG),
        ("debug", "error", False, 2, 0, logging.ERROR),
        ("debug", "error", True, 3, 1, logging.ERROR),
        ("passive", "passive", True, 0, 0, logging.WARNING),
    ],
)
def test_the_log_level_is_that_of_the_process(
    level: str,
    replica: str,
    each_node: bool,
    rank: int,
    local_rank: int,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    args = TrainingArguments(log_level=level, log_level_replica=replica, log_on_each_node=each_node)
    assert args.get_process_log_level() == expected
    assert (args.world_size, args.process_index, args.local_process_index) == (4, rank, local_rank)
    assert args.should_log == (local_rank == 0 if each_node else rank == 0)


def test_one_process_saves_for_all_or_for_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainingArguments().should_save
    for name, value in {"RANK": 2, "LOCAL_RANK": 0, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert not TrainingArguments().should_save
    assert TrainingArguments(save_on_each_node=True).should_save


def test_a_process_has_one_device() -> None:
    args = TrainingArguments(use_cpu=True, per_device_train_batch_size=3, per_device_eval_batch_size=5)
    assert (args.device, args.n_gpu) == (torch.device("cpu"), 0)
    assert (args.train_batch_size, args.eval_batch_size) == (3, 5)


class _Group:
    """A process group that writes down who waits."""

    def __init__(self, rank: int, events: list[str]):
        self.rank, self.events = rank, events

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return 2

    def barrier(self) -> None:
        self.events.append("waits")


@pytest.mark.parametrize(
    ("rank", "local", "local_rank", "expected"),
    [
        (0, False, 0, ["works", "waits"]),
        (1, False, 0, ["waits", "works"]),
        (1, True, 0, ["works", "waits"]),
        (1, True, 1, ["waits", "works"]),
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_the_first_process_works_before_the_others(
    rank: int, local: bool, local_rank: int, expected: list[str], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    group = _Group(rank, events)
    monkeypatch.setitem(sys.modules, "torch.distributed", group)  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "distributed", group)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    args = TrainingArguments()
    assert (args.world_size, args.process_index) == (2, rank)
    try:
        with args.main_process_first(local=local, desc="tokenizing"):
            events.append("works")
            if fails:
                raise OSError("disk full")
    except OSError:
        assert fails
    assert events == expected


def test_alone_nobody_waits() -> None:
    events = []
    with TrainingArguments().main_process_first():
        events.append("works")
    assert events == ["works"]
