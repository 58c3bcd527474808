"""Neptune: series, parameters and, if asked, checkpoints in the namespaces of a run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from callbacks.trackers.facts import model_configuration
from callbacks.trackers.tracker import Tracker
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.state import TrainerState


@dataclass(kw_only=True)
class NeptuneCallback(Tracker):
    """Reports to a run of Neptune's legacy client; the reference lists it as on its way out.

    ``project`` (``workspace/name``; else ``NEPTUNE_PROJECT``) and ``NEPTUNE_API_TOKEN`` say where,
    ``run_name`` (else ``logging.run_name``) how the run is called, ``mode`` whether it is sent at once; all
    that is told lies under ``base_namespace``. ``log_parameters``: arguments and the model's configuration.
    ``log_checkpoints``: upload each (``same``), or keep the ``last`` or the ``best`` only; offline they are
    read when ``neptune sync`` sends them. In a program ``run`` may be a run of its own, which is left open.
    Values that are not finite have no place in a series. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("neptune", extra="neptune")
    reopens: ClassVar[bool] = True

    project: str | None = None
    run_name: str | None = None
    mode: Literal["async", "sync", "offline", "debug"] | None = None
    base_namespace: str = "finetuning"
    log_parameters: bool = True
    log_checkpoints: Literal["same", "last", "best"] | None = None
    run: Any = None

    def __post_init__(self) -> None:
        if self.run is not None and not hasattr(self.run, "stop"):
            raise ValueError(f"run: {self.run!r} was given; a run of neptune.init_run would do.")

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import neptune
        from neptune.utils import stringify_unsupported

        if self.log_checkpoints == "best" and not args.load_best_model_at_end:
            raise ConfigError(
                "callbacks: neptune's log_checkpoints=best needs checkpoint.load_best_model_at_end=true."
            )
        self._copies: list[str] = []
        self._run: Any = self.run or neptune.init_run(
            with_id=self.run_id, project=self.project, mode=self.mode, name=self.run_name or args.run_name
        )
        with suppress(neptune.exceptions.MissingFieldException):  # offline, where no server gave it an id
            self.run_id = self._run["sys/id"].fetch()
        self._space: Any = self._run[self.base_namespace]
        if self.log_parameters:
            self._space["trainer_parameters"] = args.to_sanitized_dict()
            self._space["model_parameters"] = stringify_unsupported(model_configuration(kwargs.get("model")))
        if state.is_hyper_param_search:
            self._space["trial"] = state.trial_name
            self._space["trial_params"] = stringify_unsupported(state.trial_params or {})

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if name == "train/epoch":
                self._space[name] = value
            else:
                self._space[name].append(value, step=step)

    def saved(self, folder: Path, state: TrainerState) -> None:
        kind = self.log_checkpoints
        if kind is None or (kind == "best" and state.best_global_step != state.global_step):
            return
        from neptune.types import FileSet

        name = folder.name if kind == "same" else kind
        if self.run_id is not None:  # it is read later, when save_total_limit may have taken the folder away
            self._copies.append(tempfile.mkdtemp())
            folder = shutil.copytree(folder, Path(self._copies[-1]) / folder.name)
        self._space[f"checkpoints/{name}"] = FileSet([f"{folder}/**/*"])  # instead of what was there

    def finish(self) -> None:
        if self.run is None:
            self._run.stop()  # after what is under way has been sent
            for copy in self._copies:
                shutil.rmtree(copy, ignore_errors=True)
