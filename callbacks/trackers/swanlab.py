"""SwanLab: charts and the configuration of a run, online or in a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from callbacks.trackers.facts import holds_token
from callbacks.trackers.tracker import Tracker, variable
from conf import logging
from conf.plugins import Package
from trainer.state import TrainerState

logger = logging.get_logger(__name__)


@dataclass(kw_only=True)
class SwanLabCallback(Tracker):
    """Reports to a run of SwanLab, which ``logging.run_name`` names.

    Each option wins over the environment variable in brackets:

    - ``project`` (``SWANLAB_PROJECT``): else ``logging.project``;
    - ``mode`` (``SWANLAB_MODE``): ``cloud`` unless it says otherwise, which ``online`` is another word for;
    - ``log_dir`` (``SWANLAB_LOG_DIR``): the folder of what is kept locally, ``swanlog`` of the current one;
    - ``api_host``, ``web_host`` (``SWANLAB_API_HOST``, ``SWANLAB_WEB_HOST``): an installation of one's own;
    - ``existing_run_id`` (``SWANLAB_RUN_ID``): a run to go on with;
    - ``resume`` (``SWANLAB_RESUME``): whether that must exist; a resumed training allows it.

    The key is ``SWANLAB_API_KEY``. SwanLab keeps no models yet (``SWANLAB_LOG_MODEL``). A run that the
    program has begun itself is used and left open. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("swanlab", extra="swanlab")
    reopens: ClassVar[bool] = True

    project: str | None = None
    workspace: str | None = None
    mode: Literal["cloud", "online", "local", "offline", "disabled"] | None = None
    log_dir: str | None = None
    api_host: str | None = None
    web_host: str | None = None
    existing_run_id: str | None = None
    resume: Literal["must", "allow", "never"] | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        if variable("SWANLAB_LOG_MODEL"):
            logger.warning("swanlab: SWANLAB_LOG_MODEL has no effect, SwanLab cannot keep models yet.")
        identity = self._identity(args, state)
        with _hidden_variable("SWANLAB_PROJECT"):
            import swanlab

            self._swanlab: Any = swanlab
            self._is_ours = not swanlab.has_run()
            if self._is_ours:
                swanlab.init(**identity, settings=self._settings(args))
        self.run_id = swanlab.get_run().id
        swanlab.config.update(dict(config))

    def _identity(self, args: Any, state: TrainerState) -> dict[str, Any]:
        """Which run, for ``swanlab.init``."""
        known = self.run_id or self.existing_run_id or variable("SWANLAB_RUN_ID")
        names = [name for name in (args.run_name, state.trial_name) if name]
        return {
            "project": self.project or variable("SWANLAB_PROJECT") or args.project,
            "workspace": self.workspace,
            "name": "-".join(names) or None,
            "mode": "online" if self.mode == "cloud" else self.mode,
            "log_dir": self.log_dir,
            "id": known,
            "resume": self.resume or variable("SWANLAB_RESUME") or ("allow" if known else None),
        }

    def _settings(self, args: Any) -> Any:
        """What ``swanlab.init`` takes in no other way, or None."""
        hosts = {"api_host": self.api_host, "web_host": self.web_host}
        given: dict[str, Any] = {name: value for name, value in hosts.items() if value}
        if holds_token(args):
            given["probe"] = {"runtime": False}  # which records the command
        return self._swanlab.Settings(**given) if given else None

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._swanlab.log({**values, "train/global_step": step}, step=step)

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        self._swanlab.log({f"single_value/{name}": value for name, value in values.items()}, step=step)

    def finish(self) -> None:
        if self._is_ours:
            self._swanlab.finish(state="crashed" if self.has_failed else "success")


@contextmanager
def _hidden_variable(name: str) -> Iterator[None]:
    """An environment without that variable: swanlab 0.10 fails to start where ``SWANLAB_PROJECT`` is set."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value
