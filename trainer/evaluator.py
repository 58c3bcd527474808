"""Evaluation: the objective's sums over a data set, divided once by its weight, and what else is measured.

Nothing of a batch is kept unless a function of the user's wants all predictions at once, or the caller does.
Ranks may have different numbers of batches: they speak to each other only after the last one, or in step.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conf.errors import ConfigError, DataError
from trainer.metrics.metric import Metric
from trainer.objectives.objective import Objective, Prediction
from trainer.predictions import Collected, EvalLoopOutput, EvalPrediction, gathered_round
from trainer.ranks.ranks import Ranks, unwrap
from trainer.reports import speed_metrics

INCLUDABLE = ("inputs", "loss")


@dataclass(frozen=True, kw_only=True)
class ComputeMetrics:
    """A user's function of all predictions, and how these are kept for it.

    ``function(EvalPrediction) -> {name: number}``; it is not called for data without labels. With
    ``batch_eval`` it is called as ``function(EvalPrediction, compute_result=...)`` after each batch, with
    tensors, true after the last; only what it then returns counts, and nothing is kept.
    ``preprocess_logits(logits, labels)`` makes smaller what is kept. ``include`` adds the model's main input
    ("inputs") and each row's loss ("loss"). ``concat=False`` keeps lists of batches, ``accumulation_steps``
    is how many batches stay on the device, ``gather_object`` allows what is no tensor.
    Source: the reference's ``compute_metrics`` and ``eval_*`` arguments (main_classes/trainer).
    """

    function: Callable[..., Mapping[str, Any]] | None = None
    preprocess_logits: Callable[[Any, Any], Any] | None = None
    include: tuple[str, ...] = ()
    batch_eval: bool = False
    concat: bool = True
    accumulation_steps: int | None = None
    gather_object: bool = False
    main_input_name: str = "input_ids"

    def __post_init__(self) -> None:
        for name in self.include:
            if name not in INCLUDABLE:
                known = " and ".join(map(repr, INCLUDABLE))
                raise ConfigError(
                    f"evaluation.include_for_metrics: {name!r} cannot be included; {known} can."
                )


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a pass over one data set came to, over all ranks; ``states`` has a list for each metric."""

    sums: Mapping[str, tuple[float, float]]
    states: tuple[list[Any], ...]
    rows: int
    steps: int
    results: Mapping[str, Any]


def _nothing() -> None:
    """What nobody asked to be done after a batch."""


class Evaluator:
    """Called with a model, gives ``{"eval_loss": ...}``; several data sets give ``eval_<name>_loss`` as well.

    ``sets`` maps a name to something iterable over this rank's batches, again and again in the same order.
    ``metrics`` are measured batch by batch, in memory that does not grow with the data; ``compute`` is the
    function that sees everything at once; all names begin with ``prefix``. The model computes in the type it
    has: casting is the caller's. Raises ``ConfigError`` for two metrics that give the same name.
    """

    def __init__(
        self,
        objective: Objective,
        ranks: Ranks,
        sets: Mapping[str, Iterable[Any]],
        *,
        metrics: Sequence[Metric] = (),
        compute: ComputeMetrics | None = None,
        prefix: str = "eval",
    ):
        self.objective, self.ranks, self.sets, self.prefix = objective, ranks, sets, prefix
        self.metrics, self.compute = tuple(metrics), compute or ComputeMetrics()
        names = Counter(name for metric in self.metrics for name in metric.names)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"metrics: {twice[0]!r} is measured twice; leave one of them out.")

    def __call__(self, model: nn.Module, after_batch: Callable[[], None] = _nothing) -> dict[str, Any]:
        """Look at all sets: figures over them together, of each set if there are several, and the time taken.

        The figures of ``compute`` are of each set alone. Raises ``ConfigError`` if there is no set, and
        ``DataError`` for one without a batch.
        """
        if not self.sets:
            raise ConfigError("evaluation: there is no data to evaluate on; name some in data.validation.")
        started = time.time()
        looks = {
            name: self._look(model, batches, name, after_batch, None)[0]
            for name, batches in self.sets.items()
        }
        seen = list(looks.values())
        figures = self._figures(self.prefix, seen, seen[0].results if len(seen) == 1 else {})
        if len(seen) > 1:
            for name, one in looks.items():
                figures = _joined(figures, self._figures(f"{self.prefix}_{name}", [one], one.results))
        rows, steps = sum(one.rows for one in seen), sum(one.steps for one in seen)
        return _joined(figures, speed_metrics(self.prefix, started, rows, steps))

    def loop(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        prefix: str | None = None,
        after_batch: Callable[[], None] = _nothing,
        keep: bool | None = None,
    ) -> EvalLoopOutput:
        """Look at one set; its figures are named ``<prefix>_<name>``, and the time taken is not among them.

        ``prefix`` is the evaluator's own unless given. ``keep`` true gives the predictions and labels of all
        ranks in the order of the data, whatever else is asked for; None keeps them where ``compute`` needs
        them; false keeps none and does not call it.
        """
        prefix = self.prefix if prefix is None else prefix
        seen, kept = self._look(model, batches, prefix, after_batch, keep)
        return EvalLoopOutput(
            predictions=kept.get("predictions"),
            label_ids=kept.get("label_ids"),
            metrics=self._figures(prefix, [seen], seen.results),
            num_samples=seen.rows,
        )

    def _look(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        name: str,
        after_batch: Callable[[], None],
        keep: bool | None,
    ) -> tuple[_Seen, dict[str, Any]]:
        """One pass: what it came to, and what was kept."""
        one = _Pass(self, keep)
        with _looking(model) as bare:
            for batch, last in one.rounds(batches):
                one.take(bare, batch, last)
                if batch is not None:
                    after_batch()
        seen, kept = one.finish()
        if not seen.steps:
            raise DataError(f"evaluation: the data set {name!r} gave no batch; leave it out or add rows.")
        return seen, kept

    def _figures(self, prefix: str, seen: Sequence[_Seen], results: Mapping[str, Any]) -> dict[str, Any]:
        """The mean of each term and what the metrics measure over some sets together, and ``results``."""
        sums = _added([one.sums for one in seen])
        means = {term: value / weight if weight else math.nan for term, (value, weight) in sums.items()}
        figures = _prefixed(prefix, means)
        for number, metric in enumerate(self.metrics):
            states = [state for one in seen for state in one.states[number]]
            figures = _joined(figures, _prefixed(prefix, metric.compute(states)))
        return _joined(figures, _prefixed(prefix, results))


class _Pass:
    """One pass over this rank's batches of one data set, and what it adds up to."""

    def __init__(self, evaluator: Evaluator, keep: bool | None):
        self.objective, self.ranks = evaluator.objective, evaluator.ranks
        self.metrics, self.compute = evaluator.metrics, evaluator.compute
        function = None if keep is False else self.compute.function
        self.at_end = None if self.compute.batch_eval else function
        self.each_batch = function if self.compute.batch_eval else None
        self.collected: Collected | None = None
        if keep or self.at_end is not None:
            steps, objects = self.compute.accumulation_steps, self.compute.gather_object
            self.collected = Collected(accumulation_steps=steps, objects=objects)
        self.is_wanted = self.collected is not None or self.each_batch is not None
        self.loss_only = not self.is_wanted and not any(metric.needs_logits for metric in self.metrics)
        self.sums: dict[str, tuple[float, float]] = {}
        self.num_rows = self.num_batches = 0
        self.results: Mapping[str, Any] = {}
        for metric in self.metrics:
            metric.reset()

    def rounds(self, batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """The batches, and whether the one is known to be the last of all ranks'."""
        if self.each_batch is None:
            return ((batch, False) for batch in batches)
        return in_step(batches, self.ranks)

    def take(self, model: nn.Module, batch: Any, last: bool) -> None:
        """Look at a batch; without one only take part in what all ranks do together."""
        values = None if batch is None else self._values(model, batch)
        if self.collected is not None and values is not None:
            self.collected.add(values)
        if self.each_batch is not None:
            whole = gathered_round(values, self.ranks, objects=self.compute.gather_object)
            if whole["label_ids"] is not None:
                results = self.each_batch(EvalPrediction(**whole), compute_result=last)
                self.results = results if last else {}

    def _values(self, model: nn.Module, batch: Any) -> dict[str, Any] | None:
        """Add a batch to the sums; gives what is to be kept of it, if anything is."""
        inputs = self.ranks.to_device(batch)
        with self.ranks.forward(model):
            prediction = self.objective.predict(model, inputs, loss_only=self.loss_only)
        for term, value in prediction.terms.items():
            before = self.sums.get(term, (0.0, 0.0))
            self.sums[term] = (before[0] + value.item(), before[1] + prediction.weights[term])
        self.num_rows += num_rows(batch)
        self.num_batches += 1
        for metric in self.metrics:
            metric.update(prediction)
        return self._wanted(prediction, inputs) if self.is_wanted else None

    def _wanted(self, prediction: Prediction, inputs: Any) -> dict[str, Any]:
        logits, labels = prediction.logits, prediction.labels
        if self.compute.preprocess_logits is not None and logits is not None:
            logits = self.compute.preprocess_logits(logits, labels)
        main = None
        if "inputs" in self.compute.include:
            if (name := self.compute.main_input_name) not in inputs:
                raise ConfigError(
                    f"evaluation.include_for_metrics: a batch has no {name!r}, it has {', '.join(inputs)}."
                )
            main = inputs[name]
        losses = prediction.losses if "loss" in self.compute.include else None
        return {"predictions": logits, "label_ids": labels, "inputs": main, "losses": losses}

    def finish(self) -> tuple[_Seen, dict[str, Any]]:
        """Add up the ranks and call the user's function; the same on every rank."""
        own = (self.sums, self.num_rows, self.num_batches, [metric.state() for metric in self.metrics])
        sums, rows, batches, states = zip(*self.ranks.gather(own), strict=True)
        kept: dict[str, Any] = {}
        if self.collected is not None:
            kept = self.collected.gathered(self.ranks, concat=self.compute.concat)
        if self.at_end is not None and kept.get("label_ids") is not None:
            self.results = self.at_end(EvalPrediction(**kept))
        seen = _Seen(
            sums=_added(sums),
            states=tuple(map(list, zip(*states, strict=True))),
            rows=sum(rows),
            steps=max(batches),
            results=_plain_results(self.results),
        )
        return seen, kept


def in_step(batches: Iterable[Any], ranks: Ranks) -> Iterator[tuple[Any, bool]]:
    """This rank's batches, and None while other ranks have more; with each whether it is the last of all."""
    own = iter(batches)
    upcoming = next(own, None)
    more = ranks.all_reduce([float(upcoming is not None)])[0]
    while more:
        batch, upcoming = upcoming, next(own, None)
        more = ranks.all_reduce([float(upcoming is not None)])[0]
        yield batch, not more


@contextmanager
def _looking(model: nn.Module) -> Iterator[Any]:
    """The model without its wrapper, in evaluation mode and without gradients, for a while."""
    bare = unwrap(model)
    training = bare.training
    bare.eval()
    try:
        with torch.no_grad():
            yield bare
    finally:
        bare.train(training)


def num_rows(batch: Any) -> int:
    """How many rows a batch has: documents where it is packed, else the length of its first tensor."""
    if isinstance(batch, Mapping) and "cu_seqlens" in batch:
        return len(batch["cu_seqlens"]) - 1
    if isinstance(batch, Tensor | np.ndarray):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((rows for part in parts if (rows := num_rows(part))), 0)


def _added(shares: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """The sums and weights of each term over ranks or sets; a share may lack a term."""
    terms = dict.fromkeys(term for share in shares for term in share)
    present = {term: [share[term] for share in shares if term in share] for term in terms}
    return {term: (sum(v for v, _ in pairs), sum(w for _, w in pairs)) for term, pairs in present.items()}


def _plain_results(results: Any) -> dict[str, Any]:
    """What a user's function returned, with Python numbers for those of numpy and torch."""
    if not isinstance(results, Mapping):
        raise ConfigError(
            f"compute_metrics: a mapping of names to numbers is wanted, it returned {type(results).__name__}."
        )
    return {name: _plain(value) for name, value in results.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor | np.generic | np.ndarray):
        return value.item() if np.prod(value.shape) == 1 else value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _prefixed(prefix: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Each name with ``<prefix>_`` before it, unless it has that already."""
    return {f"{prefix}_{name.removeprefix(f'{prefix}_')}": value for name, value in figures.items()}


def _joined(figures: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both; ``ConfigError`` for a name that is taken."""
    for name in figures.keys() & more.keys():
        raise ConfigError(f"metrics: {name!r} is measured already; give a metric another name.")
    return {**figures, **more}
