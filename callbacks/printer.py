"""Log lines as they are, printed one below the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.state import TrainerCallback, TrainerControl, TrainerState


@dataclass(kw_only=True)
class PrinterCallback(TrainerCallback):
    """Prints every log line to stdout as a mapping of names to values, floats to four digits.

    For files and for programs that read along; one process of each machine speaks. It prints whether or not
    progress is shown, so leave ``progress`` out where one of them will do. Reference: main_classes/callback.
    """

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_local_process_zero:
            return
        shown = {name: value for name, value in kwargs["logs"].items() if name != "total_flos"}
        print({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in shown.items()})
