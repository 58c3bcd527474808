"""From a configuration or a folder to a model, the family chosen by the configuration's ``model_type``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from conf.errors import ConfigError
from conf.plugins import thing_of
from models import CATALOG, HEADS
from models.config import ModelConfig
from models.config_files import refuse_foreign_code
from models.loading import load_pretrained, refuse_unknown_options, torch_dtype
from models.task_model import TaskModel
from models.tasks import Task, family_table, task_named
from models.weights.keymap import KeyMap


def build_model(
    config: ModelConfig,
    task: str | None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | Mapping[str, str] = "sdpa",
    seed: int | None = None,
    trust_remote_code: bool | None = None,
    **backbone: Any,
) -> TaskModel:
    """A model with fresh weights: the configuration's family under the head of a task, or under none.

    ``dtype`` defaults to fp32, ``seed`` to torch's generator as it stands. On the meta device the weights are
    shapes only, to be filled by ``models.weights.load_weights``, or by ``to_empty`` and ``init_weights``.
    ``backbone`` are options of the family's own. ``ConfigError`` for a task that the family does not have,
    for an unknown option, data type or attention backend, and where ``trust_remote_code`` is asked for.
    """
    refuse_foreign_code(trust_remote_code)
    if isinstance(CATALOG.get(config.model_type), str):
        raise ConfigError(
            f"model_type: {config.model_type!r} is registered as a configuration alone; register its "
            "model with the class in models.factories that is asked for it"
        )
    plan = task_named(task, config.model_type)
    refuse_unknown_options(config, backbone)
    by_part = isinstance(attn_implementation, Mapping)
    attend = attn_implementation.get("", "sdpa") if by_part else attn_implementation
    with torch.device("meta"):
        make = thing_of(CATALOG, config.model_type, "model_type")
        body = make(config, attn_implementation=attend, **{**plan.backbone, **backbone})
        head = None if plan.head is None else thing_of(HEADS, plan.head, "head").from_config(config)
        keymap = _keymap(family_table(config.model_type), plan)
        model = TaskModel(body, head, config, keymap=keymap, architecture=plan.architecture)
        model.cast(torch_dtype(dtype) or torch.float32)
    if by_part:
        model.set_attn_implementation(attn_implementation)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        model.init_weights(seed)
    return model


def _keymap(table: ModuleType, task: Task) -> KeyMap:
    """A family's table and a head's names as one map; a backbone without a head is saved without a prefix."""
    names = ((f"head.{ours}", theirs) for ours, theirs in task.keys.items())
    prefix, other = (table.PREFIX, "") if task.head is not None else ("", table.PREFIX)
    renames = ((f"backbone.{ours}", f"{prefix}{theirs}") for ours, theirs in table.RENAMES)
    return KeyMap(
        renames=(*names, *renames, ("backbone.", prefix)),
        legacy=((other, "backbone."),),
        old_endings=getattr(table, "OLD_ENDINGS", ()),
        ignored=table.IGNORED,
        converters=getattr(table, "CONVERTERS", ()),
    )


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A documented name for backbone and head; called with a configuration it makes the model.

    ``family`` limits it to one family's configurations and folders; ``task`` None is the bare backbone.
    ``isinstance(model, LlamaForCausalLM)`` tells whether a model is one.
    """

    task: str | None
    family: str | None = None

    def __call__(self, config: ModelConfig, **options: Any) -> TaskModel:
        """A model with fresh weights, options as in ``build_model``."""
        if self.family not in (None, config.model_type):
            raise ConfigError(
                f"model_type: this is a {config.model_type!r} configuration, not {self.family!r}"
            )
        return build_model(config, self.task, **options)

    def __instancecheck__(self, model: object) -> bool:
        if not isinstance(model, TaskModel) or self.family not in (None, model.config.model_type):
            return False
        task = family_table(model.config.model_type).TASKS.get(self.task)
        return task is not None and task.architecture == model.architecture

    def from_config(self, config: ModelConfig, **options: Any) -> TaskModel:
        """A model with fresh weights, options as in ``build_model``."""
        return self(config, **options)

    def from_pretrained(self, folder: str | Path | None, **options: Any) -> Any:
        """The model of a folder, or of a hub's repository, in evaluation mode.

        ``options`` are the fields of ``models.loading.LoadOptions``, fields of the configuration to replace,
        as ``num_labels=3``, and those of the family's backbone, as ``add_pooling_layer=False``. A head that
        the files have no weights for is drawn and a warning says so; ``CheckpointError`` if anything else is
        missing or of another shape, ``ConfigError`` for options that cannot be.
        """
        return load_pretrained(self, folder, options)
