"""What will therefore happen: a run's numbers, derived once, shown at the start and by ``check=true``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from conf.errors import ConfigError
from trainer.config import RunConfig
from trainer.schedules import warmup_steps


@dataclass(frozen=True, kw_only=True)
class Points:
    """At which steps something happens: each ``every`` steps after ``start``, the ``last``, the ``first``."""

    every: int | None = None
    start: int = 0
    last: int | None = None
    first: bool = False
    when: str = "never"  # what is said where no step is known

    def includes(self, step: int) -> bool:
        return (
            step == self.last
            or (self.first and step == 1)
            or bool(self.every and step % self.every == 0 and step > self.start)
        )

    def steps(self, max_steps: int) -> list[int]:
        regular = range(self.every, max_steps + 1, self.every) if self.every else ()
        others = {self.last} if self.last else set()
        return sorted(
            {step for step in regular if step > self.start} | others | ({1} if self.first else set())
        )

    def describe(self, max_steps: int) -> str:
        steps = self.steps(max_steps)
        if not steps:
            return self.when
        shown = [str(step) for step in (steps if len(steps) <= 6 else [*steps[:3], *steps[-2:]])]
        if len(steps) > 6:
            shown.insert(3, "...")
        return f"{len(steps)} times, at step {', '.join(shown)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of one run. Bytes are bytes; tokens count one rank's and all others' together.

    Token counts and epochs are None for a streamed data set, whose length nobody knows; tokens also for a
    data set of a Python program, and the memory of a model of which nothing is known.
    """

    max_steps: int
    num_train_epochs: float | None
    steps_per_epoch: int | None
    rows_per_step: int
    world_size: int
    documents: int | None
    rows: int | None
    packing_efficiency: float | None
    tokens_per_epoch: int | None
    supervised_tokens_per_epoch: int | None
    train_tokens: int | None
    validation_documents: int
    warmup_steps: int
    log: Points
    evaluate: Points
    save: Points
    parameters: int
    trainable_parameters: int
    checkpoint_bytes: int
    peak_memory_bytes: int | None
    plugins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    run_name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``plan.yaml`` holds it."""
        values = dataclasses.asdict(self)
        for name in ("log", "evaluate", "save"):
            values[name] = getattr(self, name).steps(self.max_steps)
        return {**values, "notes": list(self.notes)}

    def lines(self) -> list[tuple[str, str]]:
        """What is shown to a person: (name, text)."""
        epochs = (
            ""
            if self.num_train_epochs is None
            else f" = {self.num_train_epochs:g} epochs of {self.steps_per_epoch}"
        )
        lines = [] if self.run_name is None else [("run", self.run_name)]
        lines += [
            (
                "steps",
                f"{self.max_steps}{epochs}, each of {self.rows_per_step} rows "
                f"on {_count(self.world_size, 'rank')}",
            )
        ]
        if self.tokens_per_epoch is not None:
            packed = "" if self.packing_efficiency is None else f", packed {self.packing_efficiency:.2%} full"
            lines += [
                (
                    "training data",
                    f"{_count(self.documents, 'document')} in {_count(self.rows, 'row')}{packed}",
                ),
                (
                    "tokens",
                    f"{self.tokens_per_epoch:,} an epoch, {self.supervised_tokens_per_epoch:,} of them "
                    f"supervised; {self.train_tokens:,} in all",
                ),
            ]
        lines += [
            ("warm-up", _count(self.warmup_steps, "step")),
            ("evaluate", self.evaluate.describe(self.max_steps)),
            ("save", f"{self.save.describe(self.max_steps)}, {_bytes(self.checkpoint_bytes)} each"),
            ("parameters", f"{self.parameters:,}, {self.trainable_parameters:,} of them trained"),
        ]
        if self.peak_memory_bytes is not None:
            lines.append(("peak memory", f"about {_bytes(self.peak_memory_bytes)} a process"))
        lines += [("plug-in", f"{name} ({version[:12]})") for name, version in self.plugins.items()]
        return lines + [("note", note) for note in self.notes]


def count_steps(config: RunConfig, steps_per_epoch: int | None) -> tuple[int, float | None]:
    """(steps, epochs) of a run; ``max_steps`` wins, a fraction of an epoch is rounded up to steps."""
    training = config.training
    if training.max_steps != -1:
        return training.max_steps, None if steps_per_epoch is None else training.max_steps / steps_per_epoch
    assert steps_per_epoch is not None, "a stream without max_steps was refused before"
    steps = math.ceil(training.num_train_epochs * steps_per_epoch)
    return steps, steps / steps_per_epoch


def points(
    strategy: str,
    steps: float | None,
    max_steps: int,
    steps_per_epoch: int | None,
    *,
    path: str,
    delay: float = 0,
    first: bool = False,
) -> Points:
    """When a strategy comes due; ``steps`` below 1 is a share of all, rounded up. The last step is one too.

    Nothing is planned for ``no`` and ``best``.

    Raises ``ConfigError`` for ``epoch`` on a stream, which has none.
    """
    if strategy == "no":
        return Points(first=first)
    if strategy == "best":
        return Points(when="whenever an evaluation is the best so far")
    if strategy == "epoch":
        if steps_per_epoch is None:
            raise ConfigError(
                f"{path}: 'epoch' needs a data set of known length, and this one is streamed; use steps."
            )
        every, start = steps_per_epoch, math.ceil(delay * steps_per_epoch) - 1
    else:
        assert steps is not None, path
        every, start = math.ceil(steps * max_steps) if steps < 1 else int(steps), math.ceil(delay) - 1
    return Points(every=every, start=start, last=max_steps if max_steps > start else None, first=first)


def make_plan(
    config: RunConfig,
    *,
    rows: Any,
    validation_documents: int,
    world_size: int,
    parameters: int,
    trainable: int,
    weight_bytes: int,
    activation_bytes: int | None,
    processor_bytes: int,
    plugins: Mapping[str, str],
    state_tensors: int,
    notes: tuple[str, ...] = (),
    steps_per_epoch: int | None = None,
) -> Plan:
    """Derive every number. ``rows`` is the training ``RowSet`` or ``DatasetRows``, or None for a stream.

    ``steps_per_epoch`` is what a stream says of itself; rows are counted here.

    ``state_tensors``: how many values the optimizer keeps a parameter (2 for Adam).
    """
    training, data = config.training, config.data
    rows_per_step = training.per_device_train_batch_size * training.gradient_accumulation_steps * world_size
    if rows is not None:
        whole, rest = divmod(len(rows), rows_per_step)
        steps_per_epoch = whole if data.dataloader_drop_last else whole + (rest > 0)
        if steps_per_epoch == 0:
            raise ConfigError(
                f"data.dataloader_drop_last: {len(rows)} rows do not fill one step of {rows_per_step}; "
                "leave it off."
            )
    max_steps, epochs = count_steps(config, steps_per_epoch)
    logging, evaluation, checkpoint = config.logging, config.evaluation, config.checkpoint
    counted = rows is not None and getattr(rows, "supervised", None) is not None
    tokens = int(rows.lengths.sum()) if counted else None
    state_bytes = 4 * state_tensors * trainable
    return Plan(
        max_steps=max_steps,
        num_train_epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        rows_per_step=rows_per_step,
        world_size=world_size,
        documents=None if rows is None else getattr(rows, "num_documents", len(rows)),
        rows=None if rows is None else len(rows),
        packing_efficiency=None if rows is None or not data.packing else float(rows.efficiency),
        tokens_per_epoch=tokens,
        supervised_tokens_per_epoch=int(rows.supervised.sum()) if counted else None,
        train_tokens=None if tokens is None or epochs is None else round(tokens * epochs),
        validation_documents=validation_documents,
        warmup_steps=warmup_steps(config.schedule.options, max_steps),
        log=points(logging.logging_strategy, logging.logging_steps, max_steps, steps_per_epoch,
                   path="logging.logging_strategy", first=logging.logging_first_step),
        evaluate=points(evaluation.eval_strategy, evaluation.eval_steps or logging.logging_steps, max_steps,
                        steps_per_epoch, path="evaluation.eval_strategy", delay=evaluation.eval_delay),
        save=points(checkpoint.save_strategy, checkpoint.save_steps, max_steps, steps_per_epoch,
                    path="checkpoint.save_strategy"),
        parameters=parameters,
        trainable_parameters=trainable,
        checkpoint_bytes=weight_bytes + state_bytes + processor_bytes + _OTHER_BYTES,
        peak_memory_bytes=None
        if activation_bytes is None
        else _PROCESS_BYTES + weight_bytes + 4 * trainable + state_bytes + activation_bytes,
        plugins=plugins,
        notes=notes,
        run_name=logging.run_name,
    )  # fmt: skip


_OTHER_BYTES = 40_000  # of a checkpoint: headers, configurations, states
_PROCESS_BYTES = 350 * 2**20  # Python, torch and its kernels, measured at the first step of a tiny model


def _count(number: int | None, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _bytes(number: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}" if number < 100 else f"{number:.0f} {unit}"
        number /= 1000  # type: ignore[assignment]
    return f"{number:.3g} TB"
