"""Turns a file of flat training arguments, JSON or YAML, into a recipe on standard output.

python scripts/import_arguments.py training_args.json --name mine > DIR/recipe/mine.yaml

A dump with every argument written out will do too: what is at the reference's default is left out, and what
other versions of the reference have beside version 5.0. What cannot be carried over is said on standard
error, one sentence each, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from conf.errors import ConfigError  # noqa: E402
from conf.plugins import nearest  # noqa: E402
from models.options import CheckpointingOptions  # noqa: E402
from trainer.argument_parser import read_arguments  # noqa: E402
from trainer.argument_table import (  # noqa: E402
    ARGUMENTS,
    DIFFERENT_DEFAULTS,
    HOMES,
    REFERENCE_DEFAULTS,
)
from trainer.argument_values import AcceleratorShape, FSDPShape  # noqa: E402
from trainer.arguments import TASKS, Placed, refused, tasks  # noqa: E402
from trainer.training_arguments import defaults  # noqa: E402

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}
# What other versions have: name -> values that ask for nothing.
OTHER_VERSIONS: Mapping[str, tuple[Any, ...]] = {
    "adafactor": (False,),
    "dataloader_in_order": (True,),
    "dataloader_multiprocessing_context": (None,),
    "ddp_static_graph": (None, False),
    "dispatch_batches": (None,),
    "evaluate_during_training": (False,),
    "fp16_backend": ("auto",),
    "fp16_opt_level": ("O1",),
    "fsdp_min_num_params": (0,),
    "fsdp_transformer_layer_cls_to_wrap": (None,),
    "half_precision_backend": ("auto",),
    "include_inputs_for_metrics": (False,),
    "include_tokens_per_second": (False,),
    "jit_mode_eval": (False,),
    "mp_parameters": ("",),
    "overwrite_output_dir": (False, True),
    "past_index": (-1,),
    "per_gpu_eval_batch_size": (None,),
    "per_gpu_train_batch_size": (None,),
    "push_to_hub_model_id": (None,),
    "push_to_hub_organization": (None,),
    "push_to_hub_token": (None, "<PUSH_TO_HUB_TOKEN>"),
    "ray_scope": ("last",),
    "save_safetensors": (True,),
    "split_batches": (None, False),
    "torchdynamo": (None,),
    "tp_size": (0, 1),
    "tpu_metrics_debug": (False,),
    "tpu_num_cores": (None,),
    "trackio_bucket_id": (None,),
    "trackio_static_space_id": (None,),
    "train_sampling_strategy": ("random",),
    "use_ipex": (False,),
    "use_legacy_prediction_loop": (False,),
    "use_mps_device": (False,),
}
SHAPES = {
    "accelerator_config": AcceleratorShape,
    "fsdp_config": FSDPShape,
    "gradient_checkpointing_kwargs": CheckpointingOptions,
}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a file asks for by the names of version 5.0, without defaults, and remarks for the recipe."""

    values: Mapping[str, Any]
    remarks: tuple[str, ...]


def recipe(file: Path, name: str) -> str:
    """The text of the recipe. Raises ``ConfigError`` with a sentence for all that cannot be carried over."""
    imported = _asked_for(read_arguments(file, json.loads if file.suffix == ".json" else yaml.safe_load))
    placed = Placed(imported.values)
    problems = [placed.named(problem) for problem in refused(placed.decode())]
    if problems:
        raise ConfigError(problems)
    return "\n".join(_lines(file, name, placed.data, imported.remarks))


def _lines(file: Path, name: str, data: dict[str, Any], remarks: tuple[str, ...]) -> Iterator[str]:
    yield "# @package _global_"
    yield f"# {name}: imported from {file.name}."
    yield "# To be added: `model` (preset or path), `processor` (unless model.path brings it), and"
    yield "# `data` (sources under train, and under validation where it evaluates)."
    yield from (f"# {line}" for remark in remarks for line in textwrap.wrap(remark, 105))
    if data.get("task") == "train":
        del data["task"]
    chosen = {}
    for group in ("optimizer", "schedule"):
        section = data.get(group, {})
        if "name" in section:
            chosen[group] = section.pop("name")
        if group in data and not section:
            del data[group]
    if chosen:
        yield "defaults:"
        yield from (f"  - override /{group}: {option}" for group, option in chosen.items())
    yield yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100) if data else ""


def _asked_for(given: Mapping[str, Any]) -> Imported:
    """Without names and values that ask for nothing. Raises ``ConfigError`` for names nobody knows."""
    values, problems = dict[str, Any](), []
    dumped = len(given.keys() & HOMES.keys()) > len(HOMES) * 0.8
    for name, value in given.items():
        if name == "train_sampling_strategy" and value == "group_by_length":
            name, value = value, True
        name = RENAMED.get(name, name)
        if name in HOMES:
            values[name] = values.get(name) or value
        elif name not in OTHER_VERSIONS:
            problems.append(f"{name}: there is no such argument; {nearest(name, HOMES)}")
        elif value not in OTHER_VERSIONS[name]:
            problems.append(f"{name}: {value!r} is nothing that version 5.0 has; leave it out.")
    values = {name: _without_defaults(name, value) for name, value in values.items()}
    if values.pop("hub_token", None) not in (None, "<HUB_TOKEN>"):
        problems.append("hub_token: a token is not written into a recipe; log in to the hub instead.")
    usual, decoders = defaults(), {argument.name: argument.decode for argument in ARGUMENTS}
    for name in list(values):
        idle = [usual[name], *([REFERENCE_DEFAULTS[name]] if dumped and name in REFERENCE_DEFAULTS else [])]
        try:
            if decoders[name](name, values[name]) in [decoders[name](name, value) for value in idle]:
                del values[name]
        except ConfigError as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return _undumped(values) if dumped else Imported(values=values, remarks=_tasks(values))


def _without_defaults(name: str, value: Any) -> Any:
    """A mapping without its items that are at the reference's default; None where none is left."""
    if name not in SHAPES or not isinstance(value, Mapping):
        return value
    usual = {field.name: field.default for field in fields(SHAPES[name])}
    left = {key: item for key, item in value.items() if key not in usual or item != usual[key]}
    return left or None


def _undumped(values: dict[str, Any]) -> Imported:
    """Without what the reference derived itself when it wrote every argument out."""
    derived = {"output_dir": "trainer_output", "disable_tqdm": False}
    if values.get("use_cpu"):
        derived["dataloader_pin_memory"] = False
    left = {key: value for key, value in values.items() if key not in derived or value != derived[key]}
    differ = ", ".join(f"{name} ({why})" for name, why in DIFFERENT_DEFAULTS.items() if name not in left)
    remark = (f"Defaults that differ from the file's: {differ}.",) if differ else ()
    return Imported(values=left, remarks=(*_tasks(left), *remark))


def _tasks(values: Mapping[str, Any]) -> tuple[str, ...]:
    """A recipe is one task; the others are runs of their own, of the model that it makes."""
    return tuple(
        f"{name} is a run of its own afterwards: task={TASKS[name]} model.path=FOLDER_OF_THE_RUN."
        for name in tasks(values)[1:]
    )


def main() -> int:
    """The command; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="JSON or YAML of flat training arguments")
    parser.add_argument("--name", help="name of the recipe (default: the file's)")
    asked = parser.parse_args()
    try:
        sys.stdout.write(recipe(asked.file, asked.name or asked.file.stem))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
