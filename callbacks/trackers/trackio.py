"""Trackio: a project in a local folder, or in a Space when one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from callbacks.trackers.tracker import Tracker
from conf.plugins import Package
from trainer.state import TrainerState


@dataclass(kw_only=True)
class TrackioCallback(Tracker):
    """Reports to ``logging.project``, in the run that ``logging.run_name`` names.

    It stays on this machine (``TRACKIO_DIR``) unless ``logging.trackio_space_id`` or ``TRACKIO_SPACE_ID``
    names a Space, private if ``hub.hub_private_repo`` says so; ``bucket_id`` is where that one keeps its
    data. With ``static_space_id`` a fixed picture of the project is published there when the training has
    come to its end. ``auto_log_gpu`` and ``auto_log_cpu`` also record what the machine is doing; by default
    where the packages for it are installed, and a GPU only if it is trained on. Reference:
    main_classes/callback.
    """

    package: ClassVar[Package] = Package("trackio", extra="trackio")
    reopens: ClassVar[bool] = True

    bucket_id: str | None = None
    static_space_id: str | None = None
    auto_log_gpu: bool | None = None
    auto_log_cpu: bool | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        import trackio

        self._project, self._private = args.project, args.hub_private_repo
        self._publishes = False
        self._run = trackio.init(
            project=self._project,
            name=self.run_id or args.run_name,  # a run is known by its name
            space_id=args.trackio_space_id,
            bucket_id=self.bucket_id,
            config={name: value for name, value in config.items() if not name.startswith("_")},
            resume="allow" if self.run_id else "never",
            private=self._private,
            embed=False,
            auto_log_gpu=False if self.auto_log_gpu is None and args.use_cpu else self.auto_log_gpu,
            auto_log_cpu=self.auto_log_cpu,
        )
        self.run_id = self._run.name
        self._space_id = trackio.context_vars.current_space_id.get()

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        self._publishes = self.static_space_id is not None

    def finish(self) -> None:
        import trackio

        trackio.finish()
        if self._publishes and self._space_id:
            trackio.freeze(
                space_id=self._space_id,
                project=self._project,
                new_space_id=self.static_space_id,
                private=self._private,
            )
        elif self._publishes:
            trackio.sync(
                project=self._project,
                space_id=self.static_space_id,
                sdk="static",
                private=self._private,
                bucket_id=self.bucket_id,
                force=True,
            )
