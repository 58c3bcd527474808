"""Flyte: checkpoints that a task can be resumed from after an interruption, and the log as a deck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from callbacks.trackers.tracker import Tracker
from conf import logging
from conf.plugins import Package
from trainer.state import TrainerState

logger = logging.get_logger(__name__)

RENDERER = Package("flytekitplugins.deck", extra="flyte")


@dataclass(kw_only=True)
class FlyteCallback(Tracker):
    """Works inside a Flyte task only, whose ``current_context().checkpoint`` takes the checkpoints.

    ``sync_checkpoints``: save each there, from where ``restore`` brings the newest back in the next attempt.
    ``save_log_history``: show what was logged as the deck "Log History" when the training has come to its
    end. Reference: main_classes/callback.
    """

    package: ClassVar[Package] = Package("flytekit", extra="flyte")

    save_log_history: bool = True
    sync_checkpoints: bool = True

    def start(self, args: Any, state: TrainerState, config: Mapping[str, Any], **kwargs: Any) -> None:
        from flytekit import current_context

        self._checkpoint: Any = current_context().checkpoint if self.sync_checkpoints else None
        self._shows_log = self.save_log_history and not RENDERER.is_missing
        if self.save_log_history and not self._shows_log:
            logger.warning("flyte: no deck will show the log: %s", RENDERER.problem)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Nothing: the deck is made at the end, of all that was logged."""

    def saved(self, folder: Path, state: TrainerState) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(folder)

    def ended(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        if self._shows_log:
            import pandas as pd
            from flytekit import Deck
            from flytekitplugins.deck.renderer import TableRenderer

            Deck("Log History", TableRenderer().to_html(pd.DataFrame(state.log_history)))
