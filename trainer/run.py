"""Everything one training needs, as a plain value, and the verbs that the loop says to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from conf.errors import DataError
from trainer.checkpoint import Checkpointer
from trainer.evaluator import Evaluator
from trainer.interrupt import Interrupt
from trainer.log import LogWindow, MetricsFile
from trainer.objectives.objective import Objective
from trainer.ranks.ranks import Ranks
from trainer.schedules import Factor
from trainer.state import Callbacks, TrainerControl, TrainerState

MicroBatch = dict[str, Tensor]


class StepStream(Protocol):
    """A resumable stream of optimizer steps that knows its epochs."""

    step: int

    @property
    def epoch(self) -> float: ...
    @property
    def is_epoch_end(self) -> bool: ...
    def __next__(self) -> list[MicroBatch]: ...
    def skip_epoch(self) -> None: ...
    def places(self) -> list[str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


@dataclass(kw_only=True)
class Run:
    """One training: ``loop.train(run)`` is the loop, ``build.py`` makes one from a ``RunConfig``."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Factor
    batches: StepStream
    ranks: Ranks
    evaluator: Evaluator
    checkpointer: Checkpointer
    callbacks: Callbacks
    state: TrainerState
    control: TrainerControl
    metrics_file: MetricsFile
    interrupt: Interrupt
    max_grad_norm: float | None
    saves_at_end: bool
    evaluate_on_start: bool = False
    metric_for_best_model: str = "eval_loss"
    greater_is_better: bool = False
    window: LogWindow = field(default_factory=LogWindow)
    counters: dict[str, int] = field(default_factory=dict)
    stop_requested: bool = False
    last_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def at_epoch_start(self) -> bool:
        return self.batches.step == 0 or self.batches.is_epoch_end

    # -- one optimizer step --------------------------------------------------------------------------

    def weigh(self, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
        """The weight of each term over the whole step and all ranks; counts the step's tokens on the way."""
        weights: dict[str, float] = dict.fromkeys(self.objective.coefficients, 0.0)
        slots = non_pad = 0
        for batch in micro_batches:
            counts = self.objective.weights(batch)
            if not any(counts.values()):
                continue  # a rank without rows keeps the others company; its tokens are no part of the step
            for term, count in counts.items():
                weights[term] += count
            mask, size = batch.get("attention_mask"), batch["input_ids"].numel()
            slots += size
            non_pad += size if mask is None else int(mask.sum())
        totals = self.ranks.all_reduce([*weights.values(), slots, non_pad])
        weights = dict(zip(weights, totals, strict=False))
        self.counters = {
            "tokens_slots": int(totals[-2]),
            "tokens_non_pad": int(totals[-1]),
            "tokens_supervised": int(totals[0]),
        }
        self.state.num_input_tokens_seen += int(totals[-1])
        if not any(weights.values()):
            step, rows = self.state.global_step + 1, self._rows_of_step()
            raise DataError(f"step {step}: no token of its rows is supervised: {rows}.")
        # A term that nothing in this step counts for adds nothing; its sum is 0.
        return {term: weight or 1.0 for term, weight in weights.items()}

    def reduce(self, partial: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The summed terms over micro-batches and ranks, and whether any rank was asked to stop."""
        terms = list(self.objective.coefficients)
        tensors = [part[term] for term in terms for part in partial]
        values = torch.stack(tensors).tolist() if len(tensors) > 1 else [tensors[0].item()]
        count = len(partial)
        local = [sum(values[i * count : (i + 1) * count]) for i in range(len(terms))]
        *sums, stop = self.ranks.all_reduce([*local, float(self.interrupt.signal_number > 0)])
        self.stop_requested = stop > 0
        return dict(zip(terms, sums, strict=True))

    def set_learning_rate(self) -> float:
        """Give every group the rate of the update about to be made; returns the first group's."""
        factor = self.schedule(self.state.global_step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def describe_non_finite(self, partial: Sequence[Mapping[str, Tensor]], grad_norm: float) -> str:
        """One sentence: the step, what was not finite, the rows of the step, the last good checkpoint."""
        bad = {
            f"micro-batch {i + 1} {term}={part[term].item()}"
            for i, part in enumerate(partial)
            for term in part
            if not torch.isfinite(part[term])
        }
        what = ", ".join(sorted(set().union(*self.ranks.gather(bad)))) or f"gradient norm {grad_norm}"
        last = self.checkpointer.last_saved
        return (
            f"step {self.state.global_step + 1}: {what} is not finite; no update was applied. "
            f"Rows of this step: {self._rows_of_step()}. "
            f"Last good checkpoint: {last if last else 'none was written yet'}."
        )

    def _rows_of_step(self) -> str:
        """Where the rows of the step under way came from, over all ranks."""
        return ", ".join(sorted(set().union(*self.ranks.gather(self.batches.places()))))

    # -- verbs ---------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any]) -> None:
        """One line to the history, the metrics file and whoever listens."""
        line = {"step": self.state.global_step, "epoch": round(self.state.epoch, 6), **values}
        self.state.log_history.append(line)
        if self.ranks.is_main:
            self.metrics_file.append(line)
        self.callbacks("on_log", logs=dict(line))

    def evaluate(self, *, counts: bool = True) -> dict[str, float]:
        """Look at the validation data; the best metric so far is updated after the callbacks have seen it."""
        metrics = self.evaluator(self.model, lambda: self.callbacks("on_prediction_step"))
        self.log(metrics)
        self.callbacks("on_evaluate", metrics=metrics)
        if counts:
            self._note_best(metrics)
        self.last_metrics = metrics
        return metrics

    def _note_best(self, metrics: Mapping[str, float]) -> None:
        value, best = metrics[self.metric_for_best_model], self.state.best_metric
        if best is None or (value > best if self.greater_is_better else value < best):
            self.state.best_metric, self.state.best_global_step = value, self.state.global_step

    def save(self) -> None:
        """Write ``checkpoint-<step>``; a step that is already saved is not written again."""
        if self.checkpointer.last_step == self.state.global_step:
            return
        self.checkpointer.save(self)
        self.callbacks("on_save")

    def save_last(self) -> None:
        """The last step always has a checkpoint, unless none are wanted."""
        if self.saves_at_end or self.stop_requested:
            self.save()

    def results(self) -> dict[str, Any]:
        """What a finished training is summed up by; ``metric`` is what a sweep compares."""
        name, greater = self.metric_for_best_model, self.greater_is_better
        if name not in self.last_metrics:
            name, greater = "train_loss", False
        results = {
            "epoch": self.state.epoch,
            "global_step": self.state.global_step,
            "train_loss": self.window.mean_loss,
            **self.last_metrics,
        }
        return {**results, "metric_name": name, "metric": results[name], "greater_is_better": greater}
