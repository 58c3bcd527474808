"""A report of the run, ``report.html``, when the training ends: curves, evaluations, plan, configuration."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from callbacks.html_report.history import evaluation_table, sections
from callbacks.html_report.page import Details, Figure, Report, report_page
from callbacks.html_report.scales import compact, is_drawable
from conf.logging import get_logger
from trainer.state import TrainerCallback, TrainerControl, TrainerState

logger = get_logger(__name__)

FILE = "report.html"
LIBRARIES = ("stockpot", "torch", "accelerate", "datasets", "tokenizers", "safetensors")
_DATED = re.compile(r"\d{8}-\d{6}(-\d+)?")  # how a run folder is named that nobody named


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far this start of the run came: the step it began at, and what it took since."""

    first_step: int
    seconds: float
    tokens: int


@dataclass(kw_only=True)
class ReportCallback(TrainerCallback):
    """Writes ``report.html`` into the run folder: one page that opens without a network and sends nothing.

    It is written by the main process when the training ends: finished, stopped by a signal or a callback, or
    broken off by an error. A report that cannot be written is a warning.
    """

    def __post_init__(self) -> None:
        self._began = (0.0, 0, 0)  # time, step and tokens when the training began
        self._owed: tuple[Any, TrainerState, Mapping[str, Any]] | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._began = (time.perf_counter(), state.global_step, state.num_input_tokens_seen)
        self._owed = (args, state, kwargs)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._owed = None
        self._write(args, state, kwargs, *status_of(state))

    def close(self) -> None:
        """Report a training that an error ended, if it had come to say anything."""
        if self._owed is not None:
            args, state, kwargs = self._owed
            self._owed = None
            if state.log_history:
                self._write(args, state, kwargs, f"Broken off after step {_place(state)}", "bad")

    def _write(
        self, args: Any, state: TrainerState, kwargs: Mapping[str, Any], status: str, tone: str
    ) -> None:
        if not state.is_world_process_zero:
            return
        began, first_step, first_tokens = self._began
        progress = Progress(
            first_step=first_step,
            seconds=max(time.perf_counter() - began, 1e-9),
            tokens=state.num_input_tokens_seen - first_tokens,
        )
        try:
            path = Path(args.output_dir) / FILE
            page = report_page(report_of(args, state, kwargs, progress, status=status, tone=tone))
            staged = path.with_name(f"{FILE}.new")
            staged.write_text(page, encoding="utf-8")
            staged.replace(path)
        except Exception as error:  # no training is lost to its report
            logger.warning("%s was not written: %s: %s", FILE, type(error).__name__, error)
            logger.debug("the report's error:", exc_info=True)


def status_of(state: TrainerState) -> tuple[str, str]:
    """How a training ended, and the tone to say it in. One that a signal stopped is not summed up."""
    if state.global_step >= state.max_steps:
        return "Finished", "good"
    if state.log_history and "train_runtime" in state.log_history[-1]:
        return f"Ended early, at step {_place(state)}", "good"
    return f"Stopped at step {_place(state)}", "wary"


def report_of(
    args: Any,
    state: TrainerState,
    given: Mapping[str, Any],
    progress: Progress,
    *,
    status: str,
    tone: str,
) -> Report:
    """Everything the page shows; ``given`` is what callbacks are given with each event."""
    sets = given.get("eval_dataloader")
    title, folder = _names(args)
    return Report(
        title=title,
        folder=folder,
        status=status,
        tone=tone,
        figures=list(_figures(args, state, given.get("plan"), progress)),
        sections=sections(state.log_history, sets if isinstance(sets, Mapping) and len(sets) > 1 else ()),
        evaluations=evaluation_table(state.log_history, state.best_global_step),
        details=list(_details(args, given.get("plan"))),
    )


def _names(args: Any) -> tuple[str, str]:
    """Title and line below it: the run's name, or that of its folder, or of the recipe above a dated one."""
    folder = Path(args.output_dir)
    if args.run_name:
        return str(args.run_name), str(folder)
    if _DATED.fullmatch(folder.name) and folder.parent.name:
        return folder.parent.name, folder.name
    return folder.absolute().name, str(folder) if folder.parent.name else ""


def _figures(args: Any, state: TrainerState, plan: Any, progress: Progress) -> Iterator[Figure]:
    yield Figure(label="Steps", value=f"{state.global_step:,}", detail=f"of {state.max_steps:,}")
    yield Figure(label="Epochs", value=f"{state.epoch:.4g}")
    losses = [(line["loss"], line["step"]) for line in state.log_history if "loss" in line]
    if losses:
        lowest, step = min((pair for pair in losses if is_drawable(pair[0])), default=losses[-1])
        yield Figure(
            label="Last loss",
            value=compact(losses[-1][0]),
            detail=f"lowest {compact(lowest)} at step {step:,}",
        )
    if state.best_metric is not None and state.best_global_step is not None:
        name = f"eval_{(args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        yield Figure(
            label=f"Best {name}",
            value=compact(state.best_metric),
            detail=f"at step {state.best_global_step:,}",
        )
    if state.num_input_tokens_seen:
        supervised = [line["tokens_supervised"] for line in state.log_history if "tokens_supervised" in line]
        detail = f"{compact(supervised[-1])} supervised" if supervised else ""
        yield Figure(label="Tokens", value=compact(state.num_input_tokens_seen), detail=detail)
    since = f"since step {progress.first_step:,}" if progress.first_step else ""
    yield Figure(label="Duration", value=_duration(progress.seconds), detail=since)
    steps = (state.global_step - progress.first_step) / progress.seconds
    if progress.tokens:
        rate = compact(progress.tokens / progress.seconds)
        yield Figure(label="Tokens a second", value=rate, detail=f"{compact(steps)} steps a second")
    else:
        yield Figure(label="Steps a second", value=compact(steps))
    if plan is not None:
        trained = "all trained"
        if plan.trainable_parameters != plan.parameters:
            trained = f"{compact(plan.trainable_parameters)} trained"
        yield Figure(label="Parameters", value=compact(plan.parameters), detail=trained)


def _details(args: Any, plan: Any) -> Iterator[Details]:
    """The parts that are closed until someone wants to know."""
    if plan is not None:
        yield Details(title="Plan", pairs=plan.lines(), source="what followed from the configuration")
    arguments = [(name, json.dumps(value, default=str)) for name, value in args.to_dict().items()]
    yield Details(title="Training arguments", pairs=arguments, source=f"{len(arguments)} values")
    config = Path(args.output_dir) / "config.yaml"
    if config.is_file():  # as the run wrote it, without access tokens
        text = config.read_text(encoding="utf-8")
        yield Details(title="Configuration", text=text, source=config.name)
    yield Details(title="Versions", pairs=list(_versions()))


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # run from a checkout
            continue


def _place(state: TrainerState) -> str:
    return f"{state.global_step:,} of {state.max_steps:,}"


def _duration(seconds: float) -> str:
    """Seconds for a person: the two largest units."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours} h {minute} min" if hours else f"{minute} min {second} s"
