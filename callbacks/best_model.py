"""The model of the best evaluation so far as a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from callbacks.watched_metric import WatchedMetric, gain
from conf import logging
from conf.errors import CheckpointError
from trainer.manifest import Manifest, files_of_model, publish
from trainer.state import TrainerCallback, TrainerControl, TrainerState

FOLDER = "best"
logger = logging.get_logger(__name__)


@dataclass(kw_only=True)
class BestModelCallback(TrainerCallback):
    """Keeps the model of the best evaluation in the folder ``best/`` of the run, which loads anywhere.

    Best by ``metric_for_best_model`` and ``greater_is_better``. A better evaluation is saved as a checkpoint
    whether or not one is due, and ``best/`` is hard links to the model files of it, copies where the disk has
    no links; it is replaced whole. A resumed run knows its best: where that is not the one in ``best/``, the
    folder is made again. Raises ``ConfigError`` in a training without evaluations, or where no evaluated set
    has the metric.
    """

    def __post_init__(self) -> None:
        self._metric = WatchedMetric("best_model")
        self._training = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._metric.begin(args)
        self._training = True
        if state.is_world_process_zero and state.best_global_step is not None:
            self._make_again(Path(args.output_dir), state)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        value = self._metric.value(args, kwargs["metrics"], kwargs.get("eval_dataloader"))
        # What is evaluated before the first step or outside a training is no candidate.
        if value is None or not self._training or state.global_step == 0:
            return
        better_by = gain(args, value, state.best_metric)
        if better_by is None or better_by > 0:
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and state.best_global_step == state.global_step:
            _keep(Path(args.output_dir), state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._training = False

    def _make_again(self, run: Path, state: TrainerState) -> None:
        """Let ``best/`` be this run's best: a kill came before it was, or the run goes on from before it."""
        try:
            if Manifest.load(run / FOLDER).about["step"] == state.best_global_step:
                return
        except CheckpointError:
            pass  # there is none, or half of one
        if state.best_model_checkpoint is not None and (run / state.best_model_checkpoint).is_dir():
            _keep(run, state)
        else:
            logger.warning(
                "%s is not of step %s, this run's best so far, whose checkpoint is gone; the next better "
                "evaluation replaces it.",
                run / FOLDER,
                state.best_global_step,
            )


def _keep(run: Path, state: TrainerState) -> None:
    assert state.best_model_checkpoint is not None, "it was saved"
    checkpoint = run / state.best_model_checkpoint
    about = {"step": state.best_global_step, "metric": state.best_metric}
    with publish(run / FOLDER, about=about) as folder:
        for file in files_of_model(checkpoint):
            folder.link(file.relative_to(checkpoint).as_posix(), file)
