"""Comet: an experiment with parameters and metrics, online or as an archive to be uploaded later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from callbacks.trackers.facts import holds_token, model_configuration
from callbacks.trackers.tracker import Tracker, switched_on, variable
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.state import TrainerState

Mode = Literal["get_or_create", "get", "create"]


@dataclass(kw_only=True)
class CometCallback(Tracker):
    """Reports to an experiment, which ``logging.run_name`` names.

    Each option wins over the environment variable in brackets:

    - ``project_name`` (``COMET_PROJECT_NAME`` or Comet's own settings): else ``logging.project``;
    - ``experiment_key`` (``COMET_EXPERIMENT_KEY``): the experiment to go on with, or the key of a new one;
    - ``mode`` (``COMET_MODE``): ``get`` if that experiment must exist, ``create`` if it must not, or
      ``get_or_create``;
    - ``start_online`` (``COMET_START_ONLINE``): or as an archive that ``comet upload`` takes;
    - ``log_assets`` (``COMET_LOG_ASSETS``): send all files of the run folder at the end.

    ``workspace`` and all else are Comet's settings, the key (``COMET_API_KEY``) among them. A trial of a
    search is an experiment of its own. One that the program has begun itself is used if it fits, and left
    open. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("comet_ml", extra="comet-ml")
    reopens: ClassVar[bool] = True

    project_name: str | None = None
    workspace: str | None = None
    experiment_key: str | None = None
    mode: Mode | None = None
    start_online: bool | None = None
    log_assets: bool | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import comet_ml

        settings = comet_ml.get_config()
        self._sends_files = switched_on("COMET_LOG_ASSETS") if self.log_assets is None else self.log_assets
        before = comet_ml.get_running_experiment()
        is_running = before is not None and not before.ended
        # One that the program has begun is used only if it is of the project that is asked for.
        default = None if is_running else args.project
        self._experiment: Any = comet_ml.start(
            project_name=self.project_name or settings["comet.project_name"] or default,
            workspace=self.workspace,
            experiment_key=self.run_id or self.experiment_key,
            mode=self._mode(state),
            online=self.start_online,
            experiment_config=comet_ml.ExperimentConfig(
                name=args.run_name,
                parse_args=False,  # they are among the parameters, there without a token
                log_env_host=False if holds_token(args) else None,  # which the command goes with
                # Only when asked: it asks a third party where this machine is, and `codecarbon` does it too.
                auto_log_co2=bool(settings["comet.auto_log.co2"]),
            ),
        )
        self._is_ours = not (is_running and self._experiment is before)
        self.run_id = self._experiment.get_key()
        of_model = model_configuration(kwargs.get("model"))
        self._experiment.log_parameters({"args": args.to_dict(), "config": of_model})
        if state.is_hyper_param_search:
            self._experiment.log_optimization(
                optimization_id=state.trial_name, parameters=state.trial_params or {}
            )

    def _mode(self, state: TrainerState) -> str | None:
        if self.run_id is not None:
            return "get_or_create"  # it was begun by this run
        if state.is_hyper_param_search:
            return "create"
        mode = self.mode or (variable("COMET_MODE") or "").lower() or None
        if mode not in (None, *get_args(Mode)):
            raise ConfigError(f"COMET_MODE: {mode!r} was given; one of {', '.join(get_args(Mode))} would do.")
        return mode

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._experiment.log_metrics(dict(values), step=step, epoch=values.get("train/epoch"))

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        if self._sends_files:
            self._experiment.log_asset_folder(
                args.output_dir, step=state.global_step, log_file_name=True, recursive=True
            )

    def finish(self) -> None:
        if self._is_ours:
            self._experiment.end()
