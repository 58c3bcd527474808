"""DagsHub: the MLflow store of a repository there, and if asked the run folder beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from callbacks.trackers.mlflow import MLflowCallback
from callbacks.trackers.tracker import switched_on, variable
from conf.errors import ConfigError
from conf.plugins import Package
from trainer.state import TrainerState


@dataclass(kw_only=True)
class DagsHubCallback(MLflowCallback):
    """Reports as MLflow does, to ``https://dagshub.com/<owner>/<repository>.mlflow``.

    That is ``tracking_uri``, or ``MLFLOW_TRACKING_URI``, which ``dagshub.init`` sets.
    ``log_run_folder`` (``HF_DAGSHUB_LOG_ARTIFACTS``) uploads the run folder at the end as the repository's
    ``artifacts``, to ``branch`` (``BRANCH``, else main). Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("dagshub", extra="dagshub")

    log_run_folder: bool | None = None
    branch: str | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        owner, name = self._repository()
        logs = self.log_run_folder
        self._repo: Any = None
        if switched_on("HF_DAGSHUB_LOG_ARTIFACTS") if logs is None else logs:
            from dagshub.upload import Repo

            branch = self.branch or variable("BRANCH") or "main"
            self._repo = Repo(owner=owner, name=name, branch=branch)
        super().start(args, state, config, **kwargs)

    def _repository(self) -> tuple[str, str]:
        """Owner and name, from the address of the store."""
        uri = self.tracking_uri or variable("MLFLOW_TRACKING_URI") or ""
        owner, _, name = urlsplit(uri).path.strip("/").partition("/")
        if not owner or not name.endswith(".mlflow") or "/" in name:
            raise ConfigError(
                "callbacks.dagshub: its store is not known; set MLFLOW_TRACKING_URI or tracking_uri to "
                "https://dagshub.com/OWNER/REPOSITORY.mlflow, or call dagshub.init()."
            )
        return owner, name.removesuffix(".mlflow")

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        if self._repo is not None:
            self._repo.directory("artifacts").add_dir(args.output_dir)
