"""Liger's Triton kernels in place of our layers, on a model that is already made.

They need a GPU, or Triton's interpreter (``TRITON_INTERPRET=1``), which is for tests: it is very slow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import torch

from conf.errors import ConfigError
from models.options import LigerKernels, read_options
from models.task_model import TaskModel

SWITCH, CHOICE = "training.use_liger_kernel", "training.liger_kernel_config"


def use_liger(model: TaskModel, config: Mapping[str, bool] | None = None) -> list[str]:
    """Let Liger's kernels compute what they can of ``model``, in place; a sentence for each says what.

    ``config`` has the fields of ``LigerKernels``. A family is served where it has our layers, and where its
    attention holds ``rotate_both`` as ``rotate``. ``ConfigError`` where the kernels cannot run, for wrong
    options, and for a kernel asked for by name, or all of them, that this model has no use for.
    """
    kernels = check_liger(config)
    replace = _liger().REPLACE
    counts = {
        kernel: sum(map(replace[kernel], model.modules()))
        for kernel, wanted in vars(kernels).items()
        if wanted
    }
    asked_for = [kernel for kernel, wanted in (config or {}).items() if wanted]
    idle = [f"{CHOICE}.{kernel}" for kernel in asked_for if not counts[kernel]]
    if idle or not any(counts.values()):
        raise ConfigError(f"{path}: this model has nothing to use it for." for path in idle or [SWITCH])
    return [_sentence(kernel, count) for kernel, count in counts.items()]


def check_liger(config: Mapping[str, bool] | None = None) -> LigerKernels:
    """The kernels that ``config`` chooses; ``ConfigError`` if it is wrong or they cannot run here."""
    kernels = read_options(LigerKernels, config, CHOICE)
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not (interpreted or torch.cuda.is_available() or torch.xpu.is_available()):
        raise ConfigError(f"{SWITCH}: Liger's kernels need a GPU, and there is none here; set it to false.")
    _liger()
    return kernels


def _sentence(kernel: str, count: int) -> str:
    if not count:
        return f"Liger's {kernel} is not used: this model has nothing that it could replace."
    return f"Liger's {kernel} computes {count} module{'s' * (count > 1)}."


def _liger() -> ModuleType:
    try:
        with _not_imported("transformers", "peft"):
            from models import liger
    except ImportError as error:
        raise ConfigError(
            f"{SWITCH}: needs a package ({error}): pip install 'stockpot[liger]', or set it to false."
        ) from None
    return liger


@contextmanager
def _not_imported(*packages: str) -> Iterator[None]:
    """Packages that count as missing meanwhile, unless they are loaded already.

    When it is imported, Liger looks whether they are there, and would load them, for other processors than
    GPUs and for its own patches; neither is used here.
    """
    hidden = [package for package in packages if package not in sys.modules]
    for package in hidden:
        sys.modules[package] = None  # type: ignore[assignment]  # documented: its import fails
    try:
        yield
    finally:
        for package in hidden:
            del sys.modules[package]
