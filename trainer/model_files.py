"""How a model and its processor become files and come back: ours, a foreign pretrained one, or any module.

All of them give an ordinary folder: weights as safetensors, ``config.json`` where there is a configuration,
and whatever files the processor has.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from conf.errors import CheckpointError, ConfigError
from models.config_files import read_config_file
from models.loading import settle
from models.task_model import TaskModel
from models.weights import WeightFiles, checkpoint_names, load_weights, save_tensors, save_weights
from models.weights.names import Stored, stored_tensors
from processors import Tokenizer
from trainer.manifest import Folder


class ModelFiles(Protocol):
    """Writes a model into a folder and reads its weights back into the model itself."""

    def save(self, model: nn.Module, folder: Folder) -> None: ...
    def load(self, model: nn.Module, path: Path) -> None: ...
    def names(self, model: nn.Module) -> dict[str, str]:
        """The name in the files of each parameter by its name in the model."""


def model_files(model: nn.Module, *, max_shard_size: int, stop_ids: Sequence[int] = ()) -> ModelFiles:
    """The way to save this model."""
    if isinstance(model, TaskModel):
        return TaskModelFiles(max_shard_size, stop_ids)
    if hasattr(model, "save_pretrained") and hasattr(type(model), "from_pretrained"):
        return PretrainedFiles(model, max_shard_size)
    return ModuleFiles(max_shard_size)


class ModuleFiles:
    """Any module: its parameters and persistent buffers under their own names; shared ones once."""

    def __init__(self, max_shard_size: int):
        self.max_shard_size = max_shard_size

    def save(self, model: nn.Module, folder: Folder) -> None:
        named = ((stored.names[0], stored.tensor) for stored in _stored(model))
        save_tensors(named, folder.open, max_shard_size=self.max_shard_size)
        config: Any = getattr(model, "config", None)
        if hasattr(config, "to_dict"):
            _write_json(folder, "config.json", config.to_dict())

    @torch.no_grad()
    def load(self, model: nn.Module, path: Path) -> None:
        files = WeightFiles(path)
        tensors = {stored.names[0]: stored.tensor for stored in _stored(model)}
        found = set(files.keys())
        fitting = {name for name in tensors.keys() & found if files.shape(name) == tensors[name].shape}
        _require_all(path, missing=tensors.keys() - fitting, unexpected=found - tensors.keys())
        for name, tensor in tensors.items():
            tensor.copy_(files.get(name))

    def names(self, model: nn.Module) -> dict[str, str]:
        return {stored.names[0]: stored.names[0] for stored in _stored(model)}


class TaskModelFiles:
    """A model of this library: checkpoint names, its configuration, and where its answers end."""

    def __init__(self, max_shard_size: int, stop_ids: Sequence[int] = ()):
        self.max_shard_size, self.stop_ids = max_shard_size, list(stop_ids)

    def save(self, model: nn.Module, folder: Folder) -> None:
        assert isinstance(model, TaskModel)
        save_weights(model, folder.open, max_shard_size=self.max_shard_size)
        config = model.saved_config().to_diff_dict()
        ids = {name: config.get(name) for name in ("bos_token_id", "pad_token_id")}
        ids["eos_token_id"] = self.stop_ids or config.get("eos_token_id")
        known = {name: value for name, value in ids.items() if value is not None}
        _write_json(folder, "config.json", config)
        _write_json(folder, "generation_config.json", known)

    def load(self, model: nn.Module, path: Path) -> None:
        report = load_weights(model, WeightFiles(path))
        missing = [*report.missing, *(mismatch.key for mismatch in report.mismatched)]
        _require_all(path, missing=missing, unexpected=report.unexpected)

    def names(self, model: nn.Module) -> dict[str, str]:
        return checkpoint_names(model)


def start_from(model: TaskModel, path: Path) -> list[str]:
    """Fill a model that is to be trained from a folder of pretrained weights; sentences on what is new in it.

    The folder's head may be for another task, and its vocabulary smaller than the model's: what it lacks is
    drawn from torch's generator, a new word for padding is zero. A checkpoint to go on from must be complete:
    ``TaskModelFiles.load``. ``CheckpointError`` for any other gap.
    """
    wanted, padding = len(model.get_input_embeddings().weight), getattr(model.config, "pad_token_id", None)
    found = read_config_file(path).get("vocab_size", wanted)
    if found < wanted:
        model.resize_rows(found)
    notes = settle(model, load_weights(model, path), path)
    if found < wanted:
        new_padding = padding if padding is not None and padding >= found else None
        model.resize_token_embeddings(wanted, pad_token_id=new_padding)
        notes.append(
            f"{path}: its vocabulary of {found} words has grown to {wanted}; the new ones are drawn."
        )
    return notes


class PretrainedFiles:
    """A foreign model that saves and loads itself, with names of its own choice in the files.

    ``config.use_cache`` is saved as it was when this was made: what training sets is no fact of the model.
    """

    def __init__(self, model: nn.Module, max_shard_size: int):
        self.max_shard_size = max_shard_size
        self.use_cache = getattr(getattr(model, "config", None), "use_cache", None)

    def save(self, model: Any, folder: Folder) -> None:
        now = getattr(getattr(model, "config", None), "use_cache", None)
        if self.use_cache is not None:
            model.config.use_cache = self.use_cache
        try:
            model.save_pretrained(folder.path, max_shard_size=self.max_shard_size)
        finally:
            if self.use_cache is not None:
                model.config.use_cache = now

    @torch.no_grad()
    def load(self, model: nn.Module, path: Path) -> None:
        try:
            loaded = type(model).from_pretrained(str(path))  # type: ignore[attr-defined]
            model.load_state_dict(loaded.state_dict())
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be loaded into this model ({error}).") from error

    def names(self, model: nn.Module) -> dict[str, str]:
        return {name: name for name, _ in model.named_parameters()}


def _stored(model: nn.Module) -> list[Stored]:
    """The tensors of a module; ``ConfigError`` for one that keeps something else as well."""
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model: its extra state {name!r} is a {type(value).__name__}, which a weights file cannot "
                "hold; keep a tensor there."
            )
    return stored_tensors(model)


def _require_all(path: Path, *, missing: Collection[str], unexpected: Collection[str]) -> None:
    if missing or unexpected:
        what = "lacks or has in another shape" if missing else "has unknown tensors"
        names = ", ".join(sorted(missing or unexpected)[:5])
        raise CheckpointError(f"{path}: {what} {names}; it is not of this model.")


def save_processor(processor: Any, folder: Folder) -> None:
    """The files of a tokenizer or processor, ours or a foreign one; nothing for None."""
    if processor is None:
        return
    if isinstance(processor, Tokenizer):
        processor.save(folder.open)
    elif hasattr(processor, "save_pretrained"):
        processor.save_pretrained(str(folder.path))
    elif hasattr(processor, "save"):
        processor.save(folder.open)


def _write_json(folder: Folder, name: str, content: Any) -> None:
    folder.write_text(name, json.dumps(content, indent=2, sort_keys=True) + "\n")
