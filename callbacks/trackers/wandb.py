"""Weights & Biases: charts, the configuration, a summary and, if asked, the model, online or in a folder."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from callbacks.trackers.tracker import Tracker, save_model, variable
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.state import TrainerState

X_AXIS = "train/global_step"
LogModel = Literal["end", "checkpoint", False]
Watch = Literal["gradients", "parameters", "all", False]


@dataclass(kw_only=True)
class WandbCallback(Tracker):
    """Reports to the run of ``wandb``, of which ``global_step`` is the x axis.

    ``project``: else ``WANDB_PROJECT``, else ``logging.project``; the name is ``logging.run_name``.
    ``log_model``: send the model as an artifact at the ``end``, or also each ``checkpoint`` (else
    ``WANDB_LOG_MODEL``, else not). ``watch``: histograms of gradients, parameters, or both (else
    ``WANDB_WATCH``, else none). ``entity``, ``group``, ``tags``, ``mode`` and the folder (the run folder
    unless ``WANDB_DIR`` says otherwise) are those of ``wandb.init``, and so are its other environment
    variables. A run that the program has begun itself is used and left open. Reference:
    main_classes/callback.
    """

    package: ClassVar[Package] = Package("wandb", extra="wandb")
    reopens: ClassVar[bool] = True

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline", "disabled"] | None = None
    log_model: LogModel | None = None
    watch: Watch | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import wandb

        watch = _chosen(self.watch, "WANDB_WATCH", get_args(Watch))
        self._logs_model = _chosen(self.log_model, "WANDB_LOG_MODEL", get_args(LogModel))
        self._watched: Any = None
        self._is_ours = wandb.run is None
        self._run: Any = wandb.run or wandb.init(**self._identity(args, state))
        self.run_id = self._run.id
        self._run.config.update(dict(config), allow_val_change=True)
        self._run.define_metric(X_AXIS)
        self._run.define_metric("*", step_metric=X_AXIS, step_sync=True)
        if watch:
            self._watched = kwargs["model"]
            self._run.watch(self._watched, log=watch, log_freq=max(100, state.logging_steps))

    def _identity(self, args: Any, state: TrainerState) -> dict[str, Any]:
        """Which run, for ``wandb.init``; a trial of a search is grouped by the name of the whole."""
        trial = state.trial_name
        return {
            "project": self.project or variable("WANDB_PROJECT") or args.project,
            "entity": self.entity,
            "name": trial or args.run_name,
            "group": self.group or ((args.run_name or args.output_dir) if trial else None),
            "tags": list(self.tags) or None,
            "mode": self.mode,
            "dir": variable("WANDB_DIR") or args.output_dir,
            "id": self.run_id,
            "resume": "allow" if self.run_id else None,
        }

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, X_AXIS: step})

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._run.summary[name] = value

    def saved(self, folder: Path, state: TrainerState) -> None:
        if self._logs_model == "checkpoint":
            aliases = [f"epoch_{round(state.epoch, 2)}", f"checkpoint_global_step_{state.global_step}"]
            self._send_folder(folder, aliases, self._results())

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        if not self._logs_model:
            return
        about: dict[str, Any] = self._results()
        if args.load_best_model_at_end:
            metric = args.metric_for_best_model.removeprefix("eval_")
            about = {f"eval/{metric}": state.best_metric, "train/total_flos": state.total_flos}
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), kwargs["model"], kwargs["processing_class"])
            self._send_folder(Path(folder), ["final_model"], {**about, "final_model": True})

    def finish(self) -> None:
        if self._watched is not None:
            self._run.unwatch(self._watched)
        if self._is_ours:
            self._run.finish(exit_code=1 if self.has_failed else 0)

    def _results(self) -> dict[str, float]:
        """The numbers of the summary, which an artifact is described by."""
        summary = dict(self._run.summary)
        return {
            name: value
            for name, value in summary.items()
            if isinstance(value, int | float) and not name.startswith("_")
        }

    def _send_folder(self, folder: Path, aliases: list[str], about: Mapping[str, Any]) -> None:
        """A version of the run's model artifact, whose files are copied before this returns."""
        import wandb

        name = re.sub(r"[^\w.-]", "-", f"model-{self._run.name or self._run.id}")
        artifact = wandb.Artifact(name, type="model", metadata=dict(about))
        artifact.add_dir(str(folder))
        self._run.log_artifact(artifact, aliases=aliases)


def _chosen(option: Any, name: str, known: tuple[Any, ...]) -> Any:
    """The option, else what the environment variable says, else False."""
    if option is not None:
        return option
    words = {str(value).lower(): value for value in known}
    given = os.environ.get(name, "").lower() or "false"
    if given not in words:
        raise ConfigError(f"{name}: {given!r} was given; one of {', '.join(words)} would do.")
    return words[given]
