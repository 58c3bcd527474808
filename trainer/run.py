"""Everything one training needs, as a plain value, and the verbs that the loop says to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conf.errors import ConfigError, DataError
from trainer.averaging.averaging import Averaging
from trainer.checkpoint import Checkpointer
from trainer.hub import HubPublisher
from trainer.interrupt import Interrupt
from trainer.log import LogWindow, MetricsFile, StepResult
from trainer.objectives.objective import Objective
from trainer.optimizers.state import group_values
from trainer.ranks.ranks import Ranks
from trainer.reports import is_timing
from trainer.schedules import Rates
from trainer.state import Callbacks, TrainerControl, TrainerState

MicroBatch = dict[str, Any]


class Evaluates(Protocol):
    """Looks at the validation data with a model and gives metrics by name."""

    def __call__(self, model: nn.Module, after_batch: Callable[[], None] = ...) -> dict[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The few choices that the loop and its verbs look at themselves."""

    max_grad_norm: float | None = None
    rows_per_step: int = 1
    saves_at_end: bool = True
    saves_best: bool = False
    loads_best: bool = False
    evaluate_on_start: bool = False
    metric_for_best_model: str = "eval_loss"
    greater_is_better: bool = False
    needs_best: bool = False
    averages_tokens: bool = True
    counts_padding: bool = False
    logs_tokens: bool = False
    finds_batch_size: bool = False
    updates_in_backward: bool = False
    main_input_name: str = "input_ids"


class StepStream(Protocol):
    """A resumable stream of optimizer steps that knows its epochs."""

    step: int

    @property
    def epoch(self) -> float: ...
    @property
    def is_epoch_end(self) -> bool: ...
    def __next__(self) -> list[MicroBatch]: ...
    def skip_epoch(self) -> None: ...
    def step_back(self) -> None: ...
    def resplit(self, per_device_batch_size: int, accumulation: int) -> None: ...
    def places(self) -> list[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], *, skip: bool = True) -> None: ...
    def close(self) -> None: ...


@dataclass(kw_only=True)
class Run:
    """One training: ``loop.train(run)`` is the loop.

    ``build.py`` makes one from a ``RunConfig``, ``Trainer`` from Python objects. ``flops`` estimates the
    floating point operations of a micro-batch on this rank, forward and backward.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    rates: Rates
    batches: StepStream
    ranks: Ranks
    evaluator: Evaluates
    checkpointer: Checkpointer
    callbacks: Callbacks
    state: TrainerState
    control: TrainerControl
    metrics_file: MetricsFile
    interrupt: Interrupt
    options: RunOptions
    flops: Callable[[MicroBatch], float]
    say: Callable[[str], None]
    publisher: HubPublisher | None = None
    averaging: Averaging | None = None
    window: LogWindow = field(default_factory=LogWindow)
    counters: dict[str, int] = field(default_factory=dict)
    step_flops: float = 0.0
    step_weights: dict[str, float] = field(default_factory=dict)
    divisors: dict[str, float] = field(default_factory=dict)
    num_items: float = 0.0
    updates: int = 0
    group_values: list[dict[str, Any]] = field(init=False)
    stop_requested: bool = False
    last_metrics: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    first_step: int = 0
    tokens_at_start: int = 0

    def __post_init__(self) -> None:
        self.group_values = group_values(self.optimizer)

    @property
    def at_epoch_start(self) -> bool:
        return self.batches.step == 0 or self.batches.is_epoch_end

    # -- one optimizer step --------------------------------------------------------------------------

    def weigh(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Find what each term of this rank is divided by: its weight over the whole step and all ranks.

        Without ``average_tokens_across_devices`` it is this rank's own weight times the number of ranks, so
        that the mean over the ranks is minimised. Counts the step's tokens on the way. Raises ``DataError``
        for a step without any weight.
        """
        own: dict[str, float] = dict.fromkeys(self.objective.coefficients, 0.0)
        slots = non_pad = 0
        flops = 0.0
        name = self.options.main_input_name
        for batch in micro_batches:
            counts = self.objective.weights(batch)
            if not any(counts.values()):
                continue  # a rank without rows keeps the others company; its tokens are no part of the step
            for term, count in counts.items():
                own[term] += count
            flops += self.flops(batch)
            mask, main = batch.get("attention_mask"), batch.get(name)
            size = 0 if main is None else main.numel()
            slots += size
            non_pad += size if mask is None else int(mask.sum())
        *weights, all_slots, all_non_pad, all_flops = self.ranks.all_reduce(
            [*own.values(), slots, non_pad, flops]
        )
        self.counters = {
            "tokens_slots": int(all_slots),
            "tokens_non_pad": int(all_non_pad),
            "tokens_supervised": int(weights[0]),
        }
        self.step_flops = all_flops
        if not any(weights):
            step, rows = self.state.global_step + 1, self._rows_of_step()
            raise DataError(f"step {step}: no token of its rows is supervised: {rows}.")
        # A term that nothing in this step counts for adds nothing; its sum is 0.
        self.step_weights = {term: weight or 1.0 for term, weight in zip(own, weights, strict=True)}
        if self.options.averages_tokens:
            self.divisors, self.num_items = self.step_weights, next(iter(self.step_weights.values()))
        else:
            self.divisors = {term: (weight or 1.0) * self.ranks.world_size for term, weight in own.items()}
            self.num_items = next(iter(own.values()))

    def reduce(self, partial: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The summed terms and metrics over micro-batches and ranks, and whether any rank was asked to stop.

        Terms are such that, divided by the step's weights, they give the loss that was minimised. Metrics are
        in double precision, on the host.
        """
        terms = self._terms(partial)
        metrics = {
            name: torch.stack([part[name] for part in partial]).double().sum(dim=0).cpu()
            for name in partial[0]
            if name not in terms
        }
        numbers = [number for metric in metrics.values() for number in metric.flatten().tolist()]
        stop, *sums = self.ranks.all_reduce(
            [float(self.interrupt.signal_number > 0), *terms.values(), *numbers]
        )
        self.stop_requested = stop > 0
        rest = iter(sums)
        return dict(zip(terms, rest, strict=False)), {
            name: torch.tensor([*islice(rest, metric.numel())], dtype=metric.dtype).view_as(metric)
            for name, metric in metrics.items()
        }

    def _terms(self, partial: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """This rank's summed terms, with one wait for the device."""
        terms = list(self.objective.coefficients)
        tensors = [part[term] for term in terms for part in partial]
        values = torch.stack(tensors).tolist() if len(tensors) > 1 else [tensors[0].item()]
        count = len(partial)
        local = {term: sum(values[i * count : (i + 1) * count]) for i, term in enumerate(terms)}
        if self.options.averages_tokens:
            return local
        return {term: value * self.step_weights[term] / self.divisors[term] for term, value in local.items()}

    def clip(self) -> float:
        """The norm of the step's gradient over all ranks, before it is clipped to what is wanted.

        An optimizer that updates in the backward pass has no gradient left by now; it tells the norm it saw.
        """
        if self.options.updates_in_backward:
            return self.optimizer.take_grad_norm()  # type: ignore[attr-defined]
        return self.ranks.clip(self.optimizer, self.options.max_grad_norm)

    def may_update(self, sums: Mapping[str, float], grad_norm: float) -> bool:
        """Whether the loss is finite, and the gradient too or, in fp16, only scaled up too far."""
        finite = math.isfinite(grad_norm) or self.ranks.may_skip
        return finite and all(map(math.isfinite, sums.values()))

    def update(self) -> None:
        """One update of the weights; one that fp16 left out is counted by neither schedule nor average."""
        if self.ranks.update(self.optimizer):
            self.updates += 1
            if self.averaging is not None:
                self.averaging.update(self.updates)

    def averaged(self) -> AbstractContextManager[None]:
        """While it lasts the model holds the weights that are evaluated and saved."""
        return nullcontext() if self.averaging is None else self.averaging.applied()

    def result(self, sums: Mapping[str, float], grad_norm: float, metrics: Mapping[str, float]) -> StepResult:
        """What there is to be said of the step just made, whose tokens are counted now."""
        seen = "tokens_slots" if self.options.counts_padding else "tokens_non_pad"
        self.state.num_input_tokens_seen += self.counters[seen]
        self.state.total_flos += self.step_flops
        return StepResult(
            sums=sums,
            weights=self.step_weights,
            grad_norm=grad_norm,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            counters=self.counters,
            metrics=metrics,
        )

    def describe_non_finite(self, partial: Sequence[Mapping[str, Tensor]], grad_norm: float) -> str:
        """One sentence: the step, what was not finite, the rows of the step, the last good checkpoint."""
        bad = {
            f"micro-batch {i + 1} {term}={part[term].item()}"
            for i, part in enumerate(partial)
            for term in self.objective.coefficients
            if not torch.isfinite(part[term])
        }
        scale = "" if self.ranks.loss_scale is None else f" with a loss scale of {self.ranks.loss_scale:g}"
        norm = f"gradient norm {grad_norm}{scale}"
        what = ", ".join(sorted(set().union(*self.ranks.gather(bad)))) or norm
        last = self.checkpointer.last_saved
        applied = "no update was applied"
        if self.options.updates_in_backward:
            applied = "what its backward pass reached before was updated, as this optimizer does"
        return (
            f"step {self.state.global_step + 1}: {what} is not finite; {applied}. "
            f"Rows of this step: {self._rows_of_step()}. "
            f"Last good checkpoint: {last if last else 'none was written yet'}."
        )

    def _rows_of_step(self) -> str:
        """Where the rows of the step under way came from, over all ranks."""
        return ", ".join(sorted(set().union(*self.ranks.gather(self.batches.places()))))

    # -- verbs ---------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """Say something of the step just made."""
        self.write_line(values)

    def write_line(self, values: Mapping[str, Any]) -> None:
        """One line to the history, the metrics file and whoever listens."""
        line = {"step": self.state.global_step, "epoch": round(self.state.epoch, 6), **values}
        if self.options.logs_tokens and "loss" in values:
            seconds = max(time.perf_counter() - self.began, 1e-9)
            seen = self.state.num_input_tokens_seen
            line |= {
                "num_input_tokens_seen": seen,
                "train_tokens_per_second": (seen - self.tokens_at_start) / seconds,
            }
        line |= self.callbacks.log_values(line)
        self.state.log_history.append(line)
        if self.ranks.is_main:
            self.metrics_file.append(line)
        self.callbacks("on_log", logs=dict(line))

    def evaluate(self, *, counts: bool = True) -> dict[str, float]:
        """Look at the validation data; the best metric so far is updated after the callbacks have seen it."""
        with self.averaged():
            metrics = self.evaluator(self.model, lambda: self.callbacks("on_prediction_step"))
            self.log(metrics)
            self.callbacks("on_evaluate", metrics=metrics)
        self.note(metrics, counts=counts)
        return metrics

    def note(self, metrics: Mapping[str, float], *, counts: bool = True) -> None:
        """Remember an evaluation, and whether it was the best; ``ConfigError`` without the metric wanted."""
        self.last_metrics = dict(metrics)
        self._tell_optimizer(metrics)
        name, best = self.options.metric_for_best_model, self.state.best_metric
        if not counts or (name not in metrics and not self.options.needs_best):
            return
        if name not in metrics:
            found = ", ".join(key for key in metrics if not is_timing(key))
            raise ConfigError(
                f"evaluation.metric_for_best_model: an evaluation gave no {name!r}; choose of {found}."
            )
        value = metrics[name]
        self.rates.note(value)
        if best is None or (value > best if self.options.greater_is_better else value < best):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step
            if self.options.saves_best or self.options.loads_best:
                self.control.should_save = True  # whatever is due: else there would be nothing to end with

    def _tell_optimizer(self, metrics: Mapping[str, float]) -> None:
        """Some optimizers go by how far the loss of an evaluation is from that of the training."""
        if (note := getattr(self.optimizer, "note_losses", None)) is None or "eval_loss" not in metrics:
            return
        losses = (line["loss"] for line in reversed(self.state.log_history) if "loss" in line)
        if (loss := next(losses, None)) is not None:
            note(loss, metrics["eval_loss"])

    def save(self) -> None:
        """Write ``checkpoint-<step>``; a step that is already saved is not written again."""
        if self.checkpointer.last_step == self.state.global_step:
            return
        self.checkpointer.save(self)
        self.callbacks("on_save")
        if self.publisher is not None and self.ranks.is_main:
            assert self.checkpointer.last_saved is not None
            if self.publisher.push_checkpoint(self.checkpointer.last_saved, self.state.global_step):
                self.callbacks("on_push_begin")

    def save_last(self) -> None:
        """The last step always has a checkpoint, unless none are wanted."""
        if self.options.saves_at_end or self.stop_requested:
            self.save()

    def settle_weights(self) -> None:
        """Take the weights to end with: of the best evaluation if that was asked for, else the averaged."""
        if self.stop_requested:
            return
        if self.averaging is not None:
            self.averaging.settle()
        if self.options.loads_best:
            self.checkpointer.load_best(self)

    def log_summary(self) -> None:
        """The last line of a training that came to its end: how long it took, and its mean loss."""
        if not self.stop_requested:
            self.log(self.summary())

    def _evaluation_at(self, step: int | None) -> dict[str, float]:
        """What the evaluation of a step gave."""
        name = self.options.metric_for_best_model
        lines = (line for line in reversed(self.state.log_history) if line["step"] == step and name in line)
        return {key: value for key, value in next(lines, {}).items() if key not in ("step", "epoch")}

    def summary(self) -> dict[str, float]:
        """The reference's sums of a training, under its names."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        steps = self.state.global_step - self.first_step
        return {
            "train_runtime": seconds,
            "train_samples_per_second": steps * self.options.rows_per_step / seconds,
            "train_steps_per_second": steps / seconds,
            "total_flos": self.state.total_flos,
            "train_loss": self.window.mean_loss,
        }

    def results(self) -> dict[str, Any]:
        """What a finished training is summed up by; ``metric`` is what a sweep compares."""
        name, greater = self.options.metric_for_best_model, self.options.greater_is_better
        metrics, best = self.last_metrics, self.state.best_metric
        if self.checkpointer.best_loaded is not None and best is not None:
            metrics = {name: best, **self._evaluation_at(self.state.best_global_step)}
        if name not in metrics:
            name, greater = "train_loss", False
        results = {
            "epoch": self.state.epoch,
            "global_step": self.state.global_step,
            **self.summary(),
            **metrics,
        }
        return {**results, "metric_name": name, "metric": results[name], "greater_is_better": greater}
