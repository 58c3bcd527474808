"""Azure Machine Learning: metrics of the job that this training runs in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from callbacks.trackers.tracker import Tracker
from conf.plugins import Package
from trainer.state import TrainerState


class AzureMLCallback(Tracker):
    """Reports to the job's own run, or to ``azureml_run``, which a program gives.

    Outside a job it cannot start: the package would print each number instead. The job ends the run.
    Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("azureml.core", extra="azure-ml")
    reopens: ClassVar[bool] = True

    def __init__(self, azureml_run: Any = None):
        super().__init__()
        self.azureml_run = azureml_run

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        if self.azureml_run is None:
            from azureml.core.run import Run

            self.azureml_run = Run.get_context(allow_offline=False)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.azureml_run.log(name, value, description=name, step=step)

    def finish(self) -> None:
        self.azureml_run.flush()
