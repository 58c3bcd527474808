"""One process among its equals: device, number format, gradient reduction, and the optimizer's update.

accelerate starts the process group and wraps the model for DDP; torch does the rest. DDP averages gradients
over the ranks, and every loss here is already divided by the weight of all ranks, so losses are multiplied by
the world size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn

from conf.errors import ConfigError
from trainer.ranks import launch_environment


class Ranks:
    """The machine that a run stands on.

    ``precision`` is ``torch.float32`` or ``torch.bfloat16`` (autocast; weights stay as they are).
    Raises ``ConfigError`` when the launcher's environment contradicts what is asked for, or when fewer
    processes joined than it started.
    """

    def __init__(self, *, use_cpu: bool = False, bf16: bool = False, timeout_seconds: int = 1800):
        _refuse_environment(bf16=bf16)
        self.launched = launch_environment()
        cpu = use_cpu or not torch.accelerator.is_available()
        self._accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_seconds))],
        )
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device
        self._autocast = torch.bfloat16 if bf16 else None
        self._parameters: list[nn.Parameter] = []
        if self.world_size != self.launched.world_size:
            raise ConfigError(
                f"the launcher started {self.launched.world_size} processes and {self.world_size} joined; "
                "on CPU start them with "
                "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`."
            )

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def note(self) -> str | None:
        """What is worth saying of the machine: bf16 was asked for and its processor emulates it, slowly."""
        if self._autocast is None:
            return None
        if self.device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = self.device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
        return (
            None
            if native
            else f"precision.bf16: this {self.device.type} has no bf16 arithmetic; it will be slow."
        )

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move the model to this rank's device and, with several ranks, keep its gradients in step."""
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        prepared = self._accelerator.prepare_model(model)
        several = self._accelerator.distributed_type is not DistributedType.NO
        assert several == (self.world_size > 1), self._accelerator.distributed_type
        assert isinstance(prepared, nn.parallel.DistributedDataParallel) == several, type(prepared)
        return prepared

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.device.type == "cpu":
            return batch
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    @contextmanager
    def forward(self, model: nn.Module, *, last: bool = True) -> Iterator[None]:
        """The forward pass of one micro-batch; gradients are reduced after the ``last`` of a step."""
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model.require_backward_grad_sync = last  # what DDP's own no_sync sets; read in forward
        with torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext():
            yield

    def backward(self, loss: Tensor) -> None:
        """Back-propagate this rank's share of the step's loss."""
        (loss * self.world_size if self.world_size > 1 else loss).backward()

    def clip(self, max_grad_norm: float | None) -> float:
        """The global gradient norm, before clipping to ``max_grad_norm`` (``None`` or 0: not clipped)."""
        limit = max_grad_norm if max_grad_norm else math.inf
        if limit == math.inf:
            grads = [p.grad for p in self._parameters if p.grad is not None]
            return float(torch.nn.utils.get_total_norm(grads))
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """The sums of ``values`` over all ranks, in double precision."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group."""
        self._accelerator.end_training()


def unwrap(model: nn.Module) -> Any:
    """The model itself, without the engine's wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _refuse_environment(*, bf16: bool) -> None:
    """accelerate obeys these variables silently; here the recipe is the only authority."""
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise ConfigError(
            f"accelerate's environment asks for {steps} gradient accumulation steps; say "
            f"training.gradient_accumulation_steps={steps} in the recipe instead."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16" if bf16 else "no"):
        raise ConfigError(
            f"accelerate's environment asks for {precision!r}; say precision={precision} in the recipe, or "
            "launch with --mixed_precision no."
        )
