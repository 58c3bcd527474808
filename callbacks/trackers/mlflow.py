"""MLflow: parameters and metrics of a run in a tracking store, and if asked its checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from callbacks.trackers.tracker import Tracker, switched_on, variable
from conf import logging
from conf.decode import leaves
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.state import TrainerState

logger = logging.get_logger(__name__)

_NOT_IN_NAMES = re.compile(r"[^0-9A-Za-z_\-. :/]")


@dataclass(kw_only=True)
class MLflowCallback(Tracker):
    """Reports to the active run, or begins one; ``logging.run_name`` names it.

    Each option wins over the environment variable in brackets:

    - ``tracking_uri`` (``MLFLOW_TRACKING_URI``): the store; by default MLflow's, ``mlflow.db`` of the current
      folder;
    - ``experiment_name`` (``MLFLOW_EXPERIMENT_NAME``): made if need be;
    - ``existing_run_id`` (``MLFLOW_RUN_ID``): a run to go on with;
    - ``nested_run`` (``MLFLOW_NESTED_RUN``): begin one inside the active run;
    - ``log_artifacts`` (``HF_MLFLOW_LOG_ARTIFACTS``): copy each checkpoint to the artifacts;
    - ``flatten_params`` (``MLFLOW_FLATTEN_PARAMS``): nested parameters get names with dots;
    - ``max_log_params`` (``MLFLOW_MAX_LOG_PARAMS``): how many are sent;
    - ``tags`` (``MLFLOW_TAGS``, as JSON).

    ``DISABLE_MLFLOW_INTEGRATION=TRUE`` turns it off. Metrics are sent in the background. Reference:
    main_classes/callback.
    """

    package: ClassVar[Package] = Package("mlflow", extra="mlflow")
    reopens: ClassVar[bool] = True

    tracking_uri: str | None = None
    experiment_name: str | None = None
    existing_run_id: str | None = None
    nested_run: bool | None = None
    log_artifacts: bool | None = None
    flatten_params: bool | None = None
    max_log_params: int | None = None
    tags: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.max_log_params is not None and self.max_log_params < 0:
            raise ValueError(f"max_log_params: {self.max_log_params} was given; at least 0 would do.")

    @property
    def is_wanted(self) -> bool:
        return not switched_on("DISABLE_MLFLOW_INTEGRATION")

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import mlflow

        self._sent: list[Any] = []
        self._is_ours = False
        uri = self.tracking_uri or (None if mlflow.is_tracking_uri_set() else variable("MLFLOW_TRACKING_URI"))
        if uri:
            mlflow.set_tracking_uri(uri)
        self._copies_checkpoints = _on(self.log_artifacts, "HF_MLFLOW_LOG_ARTIFACTS")
        self._open_run(args.run_name)
        self._send_params(config)
        if tags := self._tags():
            mlflow.set_tags(tags)

    def _open_run(self, name: str | None) -> None:
        """The active run, the one to go on with, or a new one."""
        import mlflow

        known = self.run_id or self.existing_run_id or variable("MLFLOW_RUN_ID")
        nested = _on(self.nested_run, "MLFLOW_NESTED_RUN")
        active = mlflow.active_run()
        if active is None or nested or known not in (None, active.info.run_id):
            experiment = self.experiment_name or variable("MLFLOW_EXPERIMENT_NAME")
            if experiment and not known:  # a run that exists has its experiment
                mlflow.set_experiment(experiment)
            active = mlflow.start_run(run_id=known, run_name=name, nested=nested)
            self._is_ours = True
        self.run_id = active.info.run_id

    def _send_params(self, config: Mapping[str, Any]) -> None:
        """The configuration, as far as the store takes it; a run that goes on keeps the values it has."""
        import mlflow
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        flat = _on(self.flatten_params, "MLFLOW_FLATTEN_PARAMS")
        params = {_named(name): str(value) for name, value in (leaves(config) if flat else config.items())}
        params = dict(islice(params.items(), self._max_params()))
        if long := [name for name, value in params.items() if len(value) > MAX_PARAM_VAL_LENGTH]:
            logger.warning(
                "mlflow: %s cut at %d characters; flatten_params keeps more of nested ones.",
                ", ".join(long),
                MAX_PARAM_VAL_LENGTH,
            )
        assert self.run_id is not None
        kept = mlflow.get_run(self.run_id).data.params
        new = ((name, value[:MAX_PARAM_VAL_LENGTH]) for name, value in params.items() if name not in kept)
        while batch := dict(islice(new, MAX_PARAMS_TAGS_PER_BATCH)):
            mlflow.log_params(batch, run_id=self.run_id)

    def _max_params(self) -> int | None:
        if self.max_log_params is not None:
            return self.max_log_params
        given = variable("MLFLOW_MAX_LOG_PARAMS")
        if given is not None and not given.isdecimal():
            raise ConfigError(f"MLFLOW_MAX_LOG_PARAMS: {given!r} was given; a whole number would do.")
        return None if given is None else int(given)

    def _tags(self) -> dict[str, Any]:
        if self.tags is not None:
            return self.tags
        try:
            tags = json.loads(variable("MLFLOW_TAGS") or "{}")
        except json.JSONDecodeError:
            tags = None
        if not isinstance(tags, dict):
            raise ConfigError('MLFLOW_TAGS: it is no JSON object; \'{"name": "value"}\' would do.')
        return tags

    def log(self, values: Mapping[str, float], step: int) -> None:
        import mlflow

        metrics = {_named(name): value for name, value in values.items()}
        # Not waited for: a store that does not answer is tried for minutes.
        self._sent.append(mlflow.log_metrics(metrics, step=step, synchronous=False, run_id=self.run_id))

    def saved(self, folder: Path, state: TrainerState) -> None:
        import mlflow

        if self._copies_checkpoints:
            mlflow.log_artifacts(str(folder), artifact_path=folder.name, run_id=self.run_id)

    def finish(self) -> None:
        import mlflow

        try:
            for sent in self._sent:
                sent.wait()
        finally:
            if self._is_ours:
                mlflow.end_run("FAILED" if self.has_failed else "FINISHED")


def _on(option: bool | None, name: str) -> bool:
    return switched_on(name) if option is None else option


def _named(name: str) -> str:
    """A name with no character that MLflow refuses."""
    return _NOT_IN_NAMES.sub("_", name)
