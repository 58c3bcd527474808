"""What the training options do to a model before it is trained, ours or any other module."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from conf.errors import ConfigError
from conf.plugins import nearest
from models.task_model import TaskModel
from trainer.config import TrainingSection
from trainer.neftune import NEFTune


def apply_options(model: nn.Module, training: TrainingSection, undo: ExitStack) -> list[str]:
    """Kernels, gradient checkpointing, cache, noise on embeddings and compilation, in this order.

    What must not outlive the training is given to ``undo``. Returns sentences on what was done. Raises
    ``ConfigError`` where a model cannot do what is asked.
    """
    notes = []
    if training.use_liger_kernel:
        notes += _use_liger(model, training)
    if training.gradient_checkpointing:
        _checkpoint_gradients(model, training, undo)
    notes += _set_cache(model, training.use_cache, undo)
    if training.neftune_noise_alpha is not None:
        undo.enter_context(NEFTune(model, training.neftune_noise_alpha))
    if training.compiles:
        _compile(model, training, undo)
        notes.append("the model is compiled; the first steps take longer.")
    return notes


def _use_liger(model: nn.Module, training: TrainingSection) -> list[str]:
    if not isinstance(model, TaskModel):
        raise ConfigError(
            "training.use_liger_kernel: it replaces layers of this library's models, and "
            f"{type(model).__name__} is none; leave it out."
        )
    from models.kernels import use_liger

    return use_liger(model, training.liger_kernel_config)


def _checkpoint_gradients(model: Any, training: TrainingSection, undo: ExitStack) -> None:
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise ConfigError(
            f"training.gradient_checkpointing: {type(model).__name__} has no "
            "gradient_checkpointing_enable(); leave it out, or checkpoint inside the module."
        )
    # Not torch's own default, which loses the gradient of what enters a checkpointed layer without one.
    model.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={
            "use_reentrant": False,
            **(training.gradient_checkpointing_kwargs or {}),
        }
    )
    undo.callback(model.gradient_checkpointing_disable)


def _set_cache(model: Any, use_cache: bool, undo: ExitStack) -> list[str]:
    """A foreign model's configuration says whether it fills a cache; ours fill one to generate only."""
    config: Any = getattr(model, "config", None)
    if isinstance(model, TaskModel) or not hasattr(config, "use_cache"):
        name = type(model).__name__
        return [f"training.use_cache: it has no effect on {name}."] if use_cache else []
    undo.callback(setattr, config, "use_cache", config.use_cache)
    config.use_cache = use_cache
    return []


def _compile(model: nn.Module, training: TrainingSection, undo: ExitStack) -> None:
    """In place, so that parameters keep their names; of ours the backbone, as the head works in chunks."""
    part: Any = model.backbone if isinstance(model, TaskModel) else model
    backend, mode = training.torch_compile_backend or "inductor", training.torch_compile_mode
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = nearest(backend, torch.compiler.list_backends(exclude_tags=("experimental",)))
        raise ConfigError(f"training.torch_compile_backend: there is no {backend!r}; {known}")
    try:
        part.compile(backend=backend, mode=mode)
    except RuntimeError as error:  # torch lists the modes that there are
        raise ConfigError(f"training.torch_compile_mode: {str(error).splitlines()[0]}.") from None
    undo.callback(setattr, part, "_compiled_call_impl", None)
