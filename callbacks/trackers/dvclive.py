"""DVCLive: metrics and parameters as files that DVC tracks, in the folder that the program runs in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from callbacks.trackers.tracker import Tracker, save_model, switched_on, variable
from conf.plugins import Package
from trainer.state import TrainerState


@dataclass(kw_only=True)
class DVCLiveCallback(Tracker):
    """Writes to ``dir``, which a new run empties and a resumed one goes on with, without its later steps.

    ``log_model``: track the final model (``true``), or the run folder at each checkpoint (``all``); else what
    ``HF_DVCLIVE_LOG_MODEL`` says. ``report`` and ``save_dvc_exp`` are those of ``dvclive.Live``. In a program
    ``live`` may be a ``Live`` of its own; those three then do not count. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("dvclive", extra="dvclive")

    live: Any = None
    log_model: Literal["all"] | bool | None = None
    dir: str = "dvclive"
    report: Literal["md", "html", "notebook"] | None = None
    save_dvc_exp: bool = True

    def __post_init__(self) -> None:
        if self.live is not None and not hasattr(self.live, "log_metric"):
            raise ValueError(f"live: {self.live!r} was given; a dvclive.Live of the program's would do.")

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        from dvclive import Live

        self._tracked = _logs_model() if self.log_model is None else self.log_model
        self._live: Any = self.live
        if self._live is None:
            self._live = Live(
                dir=self.dir,
                resume=state.global_step > 0,
                report=self.report,
                save_dvc_exp=self.save_dvc_exp,
            )
            _forget_after(state.global_step, Path(self._live.plots_dir) / "metrics")
        self._live.log_params(dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._write({name.removeprefix("train/"): value for name, value in values.items()}, step)

    def summarize(self, values: Mapping[str, float], step: int) -> None:
        self._write({name.replace("train_", "train/", 1): value for name, value in values.items()}, step)

    def _write(self, values: Mapping[str, float], step: int) -> None:
        self._live.step = step  # else it counts the lines
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.next_step()

    def saved(self, folder: Path, state: TrainerState) -> None:
        if self._tracked == "all":
            self._live.log_artifact(str(folder.parent))

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        if self._tracked is not True:
            return
        name = "best" if args.load_best_model_at_end else "last"
        with tempfile.TemporaryDirectory() as around:
            folder = Path(around) / name
            folder.mkdir()
            save_model(folder, kwargs["model"], kwargs["processing_class"])
            self._live.log_artifact(str(folder), name=name, type="model", copy=True)

    def finish(self) -> None:
        self._live.end()


def _logs_model() -> Literal["all"] | bool:
    if (variable("HF_DVCLIVE_LOG_MODEL") or "").lower() == "all":
        return "all"
    return switched_on("HF_DVCLIVE_LOG_MODEL")


def _forget_after(last: int, folder: Path) -> None:
    """Take away the points of ``folder`` that are later than step ``last``: they will come again."""
    for file in folder.rglob("*.tsv"):
        header, *lines = file.read_text(encoding="utf-8").splitlines()
        column = header.split("\t").index("step")
        kept = [line for line in lines if int(line.split("\t")[column]) <= last]
        file.write_text("\n".join([header, *kept, ""]), encoding="utf-8")
