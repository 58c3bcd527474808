"""Runs that do not train: ``task=evaluate`` and ``task=predict`` with the weights of ``model.path``.

No optimizer is built and nothing of a run that is there already is touched: results are written beside it,
``{split}_results.json``, ``all_results.json`` and, one JSON object a row, ``{split}_predictions.jsonl``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.config import ModelConfig
from models.loading import torch_dtype
from models.task_model import TaskModel
from models.weights import open_weights
from trainer.assemble import make_ranks
from trainer.build import fitting, make_metrics, refuse_longer, sets_of
from trainer.checks import idle_here
from trainer.config import RunConfig
from trainer.data.batches import EvaluationBatches
from trainer.data.cache import TokenRows
from trainer.evaluator import Evaluator
from trainer.generated import Answers
from trainer.memory import MemoryMetrics
from trainer.model_files import model_files
from trainer.objectives.objective import Objective
from trainer.prepare import Prepared
from trainer.ranks.ranks import Ranks
from trainer.reports import SPLITS, metrics_format, save_metrics, table
from trainer.run_folder import results_path
from trainer.seeding import full_determinism, set_seed, set_threads
from trainer.special_tokens import align_special_tokens

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What will be done, with which model, and where its results go."""

    config: RunConfig
    prepared: Prepared
    objective: Objective
    model: TaskModel  # on the meta device
    answers: Answers | None
    folder: Path
    notes: tuple[str, ...]

    @property
    def split(self) -> str:
        """What the results are named by: ``eval`` or ``test``."""
        return SPLITS[self.config.task]

    @property
    def sources(self) -> Mapping[str, TokenRows]:
        return self.prepared.validation if self.config.task == "evaluate" else self.prepared.test

    def lines(self) -> list[tuple[str, str]]:
        """What is shown to a person before it is done: (name, text)."""
        documents = ", ".join(f"{len(rows):,} of {name}" for name, rows in self.sources.items())
        also = "" if self.answers is None else ", and answers generated for them"
        kept = f"; {self.split}_predictions.jsonl too" if self.config.task == "predict" else ""
        return [
            (self.config.task, f"documents: {documents}{also}"),
            ("model", f"{self.config.model.path}, {self.model.num_parameters():,} parameters"),
            ("results", f"{self.folder / f'{self.split}_results.json'}{kept}"),
            *(("note", note) for note in self.notes),
        ]


def planned(
    config: RunConfig, prepared: Prepared, facts: ModelConfig, *, recipe: str | None, notes: Sequence[str]
) -> Task:
    """Decide everything and write nothing.

    Raises ``CheckpointError`` for a folder without weights, ``ConfigError`` for a model, a generation or an
    output folder that cannot be.
    """
    assert config.model.path is not None, "checked with the configuration"
    objective, model = fitting(config, facts)
    open_weights(Path(config.model.path))
    answers = None
    if config.generation.predict_with_generate:
        answers = Answers(config.generation, prepared.tokenizer, max_length=config.data.max_length)
    task = Task(
        config=config,
        prepared=prepared,
        objective=objective,
        model=model,
        answers=answers,
        folder=results_path(config.output_dir, f"{config.task}-{recipe or 'run'}"),
        notes=(*prepared.notes, *notes),
    )
    refuse_longer(config, model, [*task.sources.values()])
    return task


def carry_out(task: Task, given: Mapping[str, str], *, say: Say, warn: Say) -> float:
    """Measure, and for ``predict`` write what the model makes of each row; returns the loss.

    ``given``: which options were typed, for a sentence on those without effect on this machine.
    """
    config, split = task.config, task.split
    with ExitStack() as undo:
        memory = MemoryMetrics(enabled=not config.logging.skip_memory_metrics)
        if config.training.full_determinism:
            undo.enter_context(full_determinism(config.training.seed))
        with memory.stage("init"):
            ranks = make_ranks(config)
            undo.callback(ranks.close)
            idle = idle_here(config, given, device=ranks.device.type, world_size=ranks.world_size)
            for note in filter(None, (ranks.note, *idle)):
                warn(note)
            set_threads(config.training.num_threads, ranks.launched.local_world_size)
            set_seed(config.training.seed)
            folder = ranks.gather(task.folder)[0]
            model = _loaded(task, ranks, warn)
            # A row that is written is a document of its own.
            packing = config.data.packing and config.task == "evaluate"
            sets = sets_of(task.sources, config, task.prepared, task.objective, ranks, packing=packing)
        with memory.stage(split):
            evaluator = Evaluator(task.objective, ranks, sets, metrics=make_metrics(config), prefix=split)
            metrics = evaluator(model)
            files = [folder / f"{split}_results.json"]
            if ranks.is_main:
                folder.mkdir(parents=True, exist_ok=True)
            if config.task == "predict":
                files.append(folder / f"{split}_predictions.jsonl")
                Predictions(task, ranks).write(model, sets, files[-1])
        metrics |= memory.metrics(split)
        if ranks.is_main:
            save_metrics(folder, split, metrics)
        figures = [(name, str(value)) for name, value in metrics_format(metrics).items()]
        say(table([*figures, *(("written", str(file)) for file in files)]))
        ranks.barrier()
        return metrics[f"{split}_loss"]


def _loaded(task: Task, ranks: Ranks, warn: Say) -> TaskModel:
    """The model with the weights of ``model.path``, in the type that an evaluation is wanted in."""
    config, model = task.config, task.model
    files = model_files(model, max_shard_size=config.checkpoint.max_shard_size)
    files.load(model, Path(config.model.path or ""))
    if note := align_special_tokens(model, task.prepared.tokenizer):
        warn(note)
    if config.precision.full_eval:
        model.to(torch_dtype(config.precision.full_eval))
    return model.to(ranks.device).eval()


class Predictions:
    """Writes one JSON object a row, in the order of the data, whatever the number of ranks."""

    def __init__(self, task: Task, ranks: Ranks):
        self.task, self.ranks = task, ranks

    @torch.no_grad()
    def write(self, model: TaskModel, sets: Mapping[str, EvaluationBatches], path: Path) -> None:
        """``source``, ``place`` (file and line), and what the objective says of the row.

        The file is there when it is complete.
        """
        staged = path.with_name(f"{path.name}.new")
        try:
            with staged.open("w", encoding="utf-8") if self.ranks.is_main else nullcontext() as file:
                for name, batches in sets.items():
                    for line in self._lines(model, name, batches):
                        if file is not None:
                            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if self.ranks.is_main:
                staged.replace(path)
        finally:
            if self.ranks.is_main:
                staged.unlink(missing_ok=True)

    def _lines(self, model: TaskModel, name: str, batches: EvaluationBatches) -> Iterator[dict[str, Any]]:
        """Every rank makes its batch of a round, then all hear of them, in the order of the ranks."""
        made, schedule, rows = iter(batches), batches.schedule, self.task.sources[name]
        for step in range(schedule.steps_per_epoch):
            (share,) = schedule.shares(step)
            own = [] if share.silent else self._of_batch(model, next(made), share.rows, rows)
            for lines in self.ranks.gather([{"source": name, **line} for line in own]):
                yield from lines

    def _of_batch(
        self, model: TaskModel, batch: Any, documents: Sequence[int], rows: TokenRows
    ) -> list[dict[str, Any]]:
        with self.ranks.autocast():
            said = self.task.objective.predictions(model, self.ranks.to_device(batch))
        if self.task.answers is not None:
            texts = self.task.answers.of(model, [rows.document(index) for index in documents], self.ranks)
            said = [{**line, **text} for line, text in zip(said, texts, strict=True)]
        return [
            {"place": rows.place(index), **_finite(line)} for index, line in zip(documents, said, strict=True)
        ]


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity; they are written as text, and never left out."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }
