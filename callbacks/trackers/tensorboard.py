"""TensorBoard: event files that `tensorboard --logdir` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from callbacks.trackers.tracker import Tracker, variable
from conf.plugins import Package
from trainer.state import TrainerState


@dataclass(kw_only=True)
class TensorBoardCallback(Tracker):
    """Writes event files, with the configuration as a text.

    The folder is ``log_dir``, else ``logging.logging_dir``, else ``TENSORBOARD_LOGGING_DIR``, else the run
    folder's ``tensorboard``. A resumed run writes into it again and takes back what was said after its
    checkpoint. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("tensorboard", extra="tensorboard")
    reopens: ClassVar[bool] = True

    log_dir: str | None = None

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        given = self.log_dir or args.logging_dir or variable("TENSORBOARD_LOGGING_DIR")
        folder = Path(given).expanduser() if given else Path(args.output_dir) / "tensorboard"
        # A purge takes back this step and all after it; what was said of the checkpoint's own step stays.
        self._writer = SummaryWriter(
            str(folder), purge_step=state.global_step + 1 if state.global_step else None
        )
        self._writer.add_text("config", f"```json\n{json.dumps(dict(config), indent=2, default=str)}\n```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()
