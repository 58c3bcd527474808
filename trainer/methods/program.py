"""The parts of a run that hear a program's overrides: the verbs of the loop, and how a model is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.manifest import Folder
from trainer.model_files import ModelFiles
from trainer.run import Run


@dataclass(kw_only=True)
class ProgramRun(Run):
    """A run whose verbs are said to its ``Trainer``, so that overridden methods are heard."""

    trainer: Any = None

    def log(self, values: Mapping[str, Any]) -> None:
        self.trainer.log(dict(values))

    def evaluate(self, *, counts: bool = True) -> dict[str, float]:
        with self.averaged():
            metrics = self.trainer.evaluate(ignore_keys=self.trainer.ignored_in_training)
        self.note(metrics, counts=counts)
        return metrics


class ProgramFiles:
    """Saves by the program's own ``save_model``, reads by the way that fits the model."""

    def __init__(self, trainer: Any, files: ModelFiles):
        self.trainer, self.files = trainer, files

    def save(self, model: nn.Module, folder: Folder) -> None:
        self.trainer.save_model(str(folder.path), _internal_call=True)

    def load(self, model: nn.Module, path: Path) -> None:
        self.files.load(model, path)

    def names(self, model: nn.Module) -> dict[str, str]:
        return self.files.names(model)


@contextmanager
def in_type(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """The model's weights in another type for a while; afterwards they are what they were, bit for bit."""
    stored = [] if dtype is None else list(model.state_dict(keep_vars=True).values())
    tensors = [tensor for tensor in stored if tensor.is_floating_point()]
    before = [tensor.data for tensor in tensors]
    for tensor, value in zip(tensors, before, strict=True):
        tensor.data = value.to(dtype)
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data = value
