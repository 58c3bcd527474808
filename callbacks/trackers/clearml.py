"""ClearML: a task with hyperparameters, scalars and, if asked, its checkpoints as models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from callbacks.trackers.facts import holds_token, model_configuration
from callbacks.trackers.tracker import Tracker, switched_on, variable
from conf.plugins import Package
from trainer.state import TrainerState

OFFLINE = "offline-"  # how ClearML begins the id of a task that no server knows


@dataclass(kw_only=True)
class ClearMLCallback(Tracker):
    """Reports to a task of ClearML.

    Each option wins over the environment variable in brackets:

    - ``project`` (``CLEARML_PROJECT``): else ``logging.project``;
    - ``task`` (``CLEARML_TASK``): its name, else ``logging.run_name``, else ``Trainer``;
    - ``log_model`` (``CLEARML_LOG_MODEL``): send each checkpoint as an output model, of which the last
      ``checkpoint.save_total_limit`` are kept.

    A task that the program or an agent has begun is used and left open. ClearML draws a value that is not
    finite as 0, so one is written to the task's console instead. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("clearml", extra="clearml")
    reopens: ClassVar[bool] = True

    project: str | None = None
    task: str | None = None
    log_model: bool | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import clearml

        self._sends_models = switched_on("CLEARML_LOG_MODEL") if self.log_model is None else self.log_model
        self._limit: int | None = args.save_total_limit
        self._models: list[Any] = []
        current: Any = clearml.Task.current_task()
        self._is_ours = current is None and clearml.Task.running_locally()
        if self._is_ours:
            # By a thread, not a fork of this process: that may wait for minutes for a lock when it is closed.
            reporting: Any = clearml.Task
            reporting._report_subprocess_enabled = False
        self._task: Any = current or clearml.Task.init(**self._identity(args))
        self.run_id = self._task.id
        # Only told: what an agent would have changed of it is not taken over, the run is decided by now.
        self._task.connect(args.to_dict(), name="Arguments", ignore_remote_overrides=True)
        if of_model := model_configuration(kwargs.get("model")):
            self._task.set_configuration_object(name="Model Configuration", config_dict=of_model)

    def _identity(self, args: Any) -> dict[str, Any]:
        """Which task, for ``Task.init``; a new run never overwrites the task of one before."""
        known = self.run_id if self.run_id and not self.run_id.startswith(OFFLINE) else None
        return {
            "project_name": self.project or variable("CLEARML_PROJECT") or args.project,
            "task_name": self.task or variable("CLEARML_TASK") or args.run_name or "Trainer",
            "reuse_last_task_id": known or False,
            "continue_last_task": 0 if known else False,  # with 0 added to the steps
            "auto_connect_frameworks": {
                "tensorboard": False,
                "pytorch": False,
                "detect_repository": not holds_token(args),  # which records the command
            },
            "auto_connect_arg_parser": {"hub_token": False},
            "output_uri": True,
        }

    def log(self, values: Mapping[str, float], step: int) -> None:
        logger = self._task.get_logger()
        for name, value in values.items():
            title, _, series = name.partition("/")
            if math.isfinite(value):
                logger.report_scalar(title=title, series=series, value=value, iteration=step)
            else:
                logger.report_text(f"{name} is {value} at step {step}", print_console=False)

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._task.get_logger().report_single_value(name=name, value=value)

    def saved(self, folder: Path, state: TrainerState) -> None:
        import clearml

        if not self._sends_models:
            return
        model = clearml.OutputModel(task=self._task, name=folder.name)
        model.update_weights_package(
            weights_path=str(folder),
            target_filename=folder.name,
            iteration=state.global_step,
            auto_delete_file=False,
        )
        self._models.append(model)
        while self._limit and len(self._models) > self._limit:
            clearml.Model.remove(self._models.pop(0), delete_weights_file=True, force=True)

    def finish(self) -> None:
        if self._is_ours:
            if self.has_failed:
                self._task.mark_failed(status_message="The training did not come to its end.")
            self._task.close()
