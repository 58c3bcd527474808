"""One process among its equals: device, number format, gradient reduction, and the optimizer's update.

accelerate starts the process group and wraps the model for DDP; torch does the rest. DDP averages gradients
over the ranks, and every loss here is already divided by the weight of all ranks, so losses are multiplied by
the world size. In fp16 the loss is scaled up before it is back-propagated, so that small gradients survive,
and an update whose gradients overflowed is left out (Micikevicius et al. 2017, arXiv:1710.03740).
"""

from __future__ import annotations

import atexit
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor, nn

from conf.errors import ConfigError
from trainer.ranks import launch_environment

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
SECONDS_FOR_THREADS = 0.1
SMALLEST_SCALE = 1.0  # below it a gradient that overflows is too large in itself


class Ranks:
    """The machine that a run stands on.

    ``autocast`` is the type to compute in, ``"bf16"`` or ``"fp16"``, while weights stay as they are; None is
    fp32. ``tf32`` lets products of fp32 matrices round their factors, where the device can. With
    ``reduces_at_update`` the ranks speak to each other in ``clip`` only and not in the forward and
    backward passes, so that one that ran out of memory there leaves no other waiting; buffers are each rank's
    own then. Raises ``ConfigError`` when the launcher's environment contradicts what is asked for, or when
    fewer processes joined than it started.
    """

    def __init__(
        self,
        *,
        use_cpu: bool = False,
        autocast: str | None = None,
        tf32: bool | None = None,
        timeout_seconds: int = 1800,
        reduces_at_update: bool = False,
    ):
        _refuse_environment(autocast)
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
        self._autocast = None if autocast is None else AUTOCAST[autocast]
        self._scaler = torch.amp.GradScaler(self.device.type) if autocast == "fp16" else None
        self.reduces_at_update = reduces_at_update
        self._parameters: list[nn.Parameter] = []
        _set_tf32(tf32)
        if self.world_size != self.launched.world_size:
            raise ConfigError(
                f"the launcher started {self.launched.world_size} processes and {self.world_size} joined; "
                "on CPU start them with "
                "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N`."
            )
        if self.world_size > 1:
            atexit.register(self.close)  # a program may never say that it is done

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def note(self) -> str | None:
        """What is worth saying of the machine: bf16 was asked for and its processor emulates it, slowly."""
        if self._autocast is not torch.bfloat16:
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

    def to_device(self, batch: Any) -> Any:
        """A batch on this rank's device: a tensor, or dicts and sequences of them."""
        if self.device.type == "cpu":
            return batch
        if isinstance(batch, Tensor):
            return batch.to(self.device, non_blocking=True)
        if isinstance(batch, dict):
            return type(batch)((name, self.to_device(value)) for name, value in batch.items())
        if isinstance(batch, list | tuple):
            return type(batch)(self.to_device(value) for value in batch)
        return batch

    @contextmanager
    def forward(self, model: nn.Module, *, last: bool = True) -> Iterator[None]:
        """The forward pass of one micro-batch; gradients are reduced after the ``last`` of a step."""
        if isinstance(model, nn.parallel.DistributedDataParallel):
            # What DDP's own no_sync sets; read in forward.
            model.require_backward_grad_sync = last and not self.reduces_at_update
            if self.reduces_at_update:
                model.require_forward_param_sync = False
        with self.autocast():
            yield

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the type that was asked for."""
        return torch.autocast(self.device.type, self._autocast) if self._autocast else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Back-propagate this rank's share of the step's loss."""
        loss = loss * self.world_size if self.world_size > 1 else loss
        (loss if self._scaler is None else self._scaler.scale(loss)).backward()

    def clip(self, optimizer: torch.optim.Optimizer, max_grad_norm: float | None) -> float:
        """The global gradient norm, before clipping to ``max_grad_norm`` (``None`` or 0: not clipped)."""
        if self.reduces_at_update:
            self._reduce_gradients()
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        limit = max_grad_norm if max_grad_norm else math.inf
        if limit == math.inf:
            grads = [p.grad for p in self._parameters if p.grad is not None]
            return float(torch.nn.utils.get_total_norm(grads))
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))

    def update(self, optimizer: torch.optim.Optimizer) -> bool:
        """Let the optimizer step; False where fp16 gradients overflowed and the step was left out."""
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    @property
    def loss_scale(self) -> float | None:
        """What losses are multiplied by before they are back-propagated; None outside fp16."""
        return None if self._scaler is None else self._scaler.get_scale()

    @property
    def may_skip(self) -> bool:
        """Whether a gradient that is not finite is a matter of the loss scale, which can still be lowered."""
        return self.loss_scale is not None and self.loss_scale > SMALLEST_SCALE

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale and its counters; empty outside fp16."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_scaler_state(self, state: Mapping[str, Any]) -> None:
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))

    def _reduce_gradients(self) -> None:
        """What DDP does while it goes back, done at once: the mean over the ranks."""
        if self.world_size == 1:
            return
        for parameter in self._parameters:
            if parameter.grad is None:  # unused on this rank, perhaps not on another
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= self.world_size

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
        if self.world_size > 1:
            atexit.unregister(self.close)
            # Once a model was wrapped, torch keeps gloo's threads. One that has yet to free the tensors of
            # its last work when the interpreter ends aborts the process; here it gets the time.
            time.sleep(SECONDS_FOR_THREADS)


def unwrap(model: nn.Module) -> Any:
    """The model itself, without the engine's wrapper."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _set_tf32(wanted: bool | None) -> None:
    if wanted is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted


def _refuse_environment(autocast: str | None) -> None:
    """accelerate obeys these variables silently; here the recipe is the only authority."""
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise ConfigError(
            f"accelerate's environment asks for {steps} gradient accumulation steps; say "
            f"training.gradient_accumulation_steps={steps} in the recipe instead."
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", autocast or "no"):
        raise ConfigError(
            f"accelerate's environment asks for {precision!r}; say precision={precision} in the recipe, or "
            "launch with --mixed_precision no."
        )
