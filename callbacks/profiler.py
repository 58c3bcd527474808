"""Where the time of a few steps goes, by torch's profiler."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import logging
from trainer.state import TrainerCallback, TrainerControl, TrainerState

FOLDER = "profile"
logger = logging.get_logger(__name__)


@dataclass(kw_only=True)
class ProfilerCallback(TrainerCallback):
    """Profiles steps of the main process: after ``wait`` and ``warmup`` steps it records ``active`` ones.

    That is done ``repeat`` times, 0 is again and again. Each recording is a file
    ``profile/steps-<first>-<last>.json`` of the run folder, which Perfetto (ui.perfetto.dev) and
    ``chrome://tracing`` open, and a table of the ``rows`` costliest operators. ``record_shapes``,
    ``profile_memory`` and ``with_stack`` record more and cost more. Between the recordings nothing is slowed
    down but in warm-up steps, which are recorded and thrown away. Reference: torch.profiler.
    """

    wait: int = 1
    warmup: int = 1
    active: int = 3
    repeat: int = 1
    rows: int = 15
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False

    def __post_init__(self) -> None:
        for name, least in (("wait", 0), ("warmup", 0), ("active", 1), ("repeat", 0), ("rows", 1)):
            if (value := getattr(self, name)) < least:
                raise ValueError(f"{name}: at least {least} is wanted, {value} was given.")
        self._profile: Any = None
        self._folder = Path()
        self._begins_at = 0
        self._recorded = 0  # the last step of a recording

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        from torch.profiler import profile, schedule

        self._folder = Path(args.output_dir) / FOLDER
        self._begins_at, self._recorded = state.global_step, 0
        self._profile = profile(
            schedule=schedule(wait=self.wait, warmup=self.warmup, active=self.active, repeat=self.repeat),
            on_trace_ready=self._write,
            record_shapes=self.record_shapes,
            profile_memory=self.profile_memory,
            with_stack=self.with_stack,
        )
        self._profile.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._profile is not None:
            with warnings.catch_warnings():  # each recording is written before the next begins
                warnings.filterwarnings("ignore", message="Warning: Profiler clears events")
                self._profile.step()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()
        if state.is_world_process_zero and not self._recorded:
            logger.warning(
                "callbacks.profiler: the training ended before a step was recorded; it begins with step %s.",
                self._begins_at + self.wait + self.warmup + 1,
            )

    def close(self) -> None:
        """End the profiler; a recording under way is written as far as it came."""
        if self._profile is not None:
            profile, self._profile = self._profile, None
            profile.stop()

    def _write(self, profile: Any) -> None:
        """The recording that just ended; ``profile.step_num`` steps are over."""
        cycle = self.wait + self.warmup + self.active
        start = self._begins_at + (profile.step_num - 1) // cycle * cycle
        first, last = start + self.wait + self.warmup + 1, self._begins_at + profile.step_num
        if last < first or last == self._recorded:
            return  # the training ended before the next step that was to be recorded
        self._folder.mkdir(exist_ok=True)
        file = self._folder / f"steps-{first}-{last}.json"
        profile.export_chrome_trace(str(file))
        self._recorded = last
        averages = profile.key_averages()
        device = "device" if any(event.self_device_time_total for event in averages) else "cpu"
        print(f"the costliest operators of steps {first} to {last}; all are in {file}")
        print(averages.table(sort_by=f"self_{device}_time_total", row_limit=self.rows))
