"""How fast the training goes, and how much of what the machine could compute it uses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState

_SECONDS_OF_PEAK = 0.05  # a product that takes so long says what the device can do
_LARGEST = 16384  # rows and columns of its factors


@dataclass(kw_only=True)
class ThroughputCallback(TrainerCallback):
    """Adds the rates of the steps since the last one to each training line of the log.

    ``tokens_per_second`` (those of ``num_input_tokens_seen``), ``samples_per_second`` (rows of the data) and
    ``steps_per_second`` are of all processes together. ``tflops_per_second`` is 10^12 operations a second of
    the model's forward and backward passes, as ``total_flos`` counts them, and ``model_flops_utilization``
    the share of ``peak_tflops`` a process that this is (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    Without ``peak_tflops`` the peak is measured before the first step, by a matrix product in the type that
    the training computes in. Both are left out for a model that tells no operations.

    The seconds are those from the begin to the end of each step, its data included; evaluating, saving and
    logging are not: a rate says how fast the training is, whatever else is done in between.
    """

    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(f"peak_tflops: more than 0 is wanted, {self.peak_tflops} was given.")
        self._peak = 0.0  # of all processes, in operations a second
        self._began = self._seconds = 0.0
        self._steps = 0
        self._counted = (0, 0.0)  # tokens and operations when the last line was written

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        peak = measured_peak(args, kwargs["model"]) if self.peak_tflops is None else self.peak_tflops * 1e12
        self._peak = peak * args.world_size
        self._begin_window(state)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._seconds += time.perf_counter() - self._began
        self._steps += 1

    def log_values(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any],
        **kwargs: Any,
    ) -> dict[str, float]:
        if "loss" not in logs or not self._steps:
            return {}
        tokens, operations = self._counted
        counts = {
            "tokens": state.num_input_tokens_seen - tokens,
            "samples": self._steps * kwargs["plan"].rows_per_step,
            "steps": self._steps,
        }
        rates = {f"{name}_per_second": count / self._seconds for name, count in counts.items()}
        if done := state.total_flos - operations:
            rates["tflops_per_second"] = done / self._seconds / 1e12
            rates["model_flops_utilization"] = done / self._seconds / self._peak
        self._begin_window(state)
        return rates

    def _begin_window(self, state: TrainerState) -> None:
        self._seconds, self._steps = 0.0, 0
        self._counted = (state.num_input_tokens_seen, state.total_flos)


def measured_peak(args: Any, model: Any) -> float:
    """Operations a second of a large matrix product on the model's device, in the type of ``args``.

    The product grows until it takes long enough to be measured; the best of three counts. No generator of
    the run is drawn from.
    """
    import torch

    device = next(model.parameters()).device
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    size, best, largest_reached = 256, 0.0, False
    while not largest_reached:
        draw = torch.Generator(device).manual_seed(0)
        factor = torch.rand(size, size, generator=draw, device=device).to(dtype)
        seconds = min(_seconds_of_product(factor) for _ in range(3))
        best = max(best, 2 * size**3 / seconds)
        largest_reached = seconds >= _SECONDS_OF_PEAK or size >= _LARGEST
        size *= 2
    return best


def _seconds_of_product(factor: Any) -> float:
    import torch

    def wait() -> None:
        if factor.device.type != "cpu":
            torch.accelerator.synchronize(factor.device)

    wait()
    began = time.perf_counter()
    factor @ factor
    wait()
    return time.perf_counter() - began
