"""``--multirun``: choose jobs, run each in a process and a folder of its own, keep ledger and leaderboard.

A sweep that was stopped or killed goes on by the same command line with its ``output_dir`` and
``resume=auto``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.errors import ConfigError, StockpotError, StoppedError
from trainer import run_folder
from trainer.interrupt import Interrupt
from trainer.reports import is_timing
from trainer.retention import checkpoints
from trainer.secrets import hidden, redacted
from trainer.sweeps import jobs, search
from trainer.sweeps.choosers import Chooser, Grid, Job
from trainer.sweeps.comparison import compared
from trainer.sweeps.leaderboard import HTML, Leaderboard, leaderboard
from trainer.sweeps.ledger import LEDGER, Ledger
from trainer.sweeps.plan import Plan, planned
from trainer.sweeps.space import Value


def sweep(words: Sequence[str], plugins: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Run all jobs of a command line; ``output_dir`` is the parent of their folders.

    Returns the ledger's lines, best first. Raises ``ConfigError`` before the first job starts (all jobs of a
    grid are decoded by then, and of a search the corners of its space), ``StoppedError`` after a signal, when
    the job that ran has saved, and ``StockpotError`` where a failure ends the sweep.
    """
    return Sweep(planned(words, plugins)).carry_out()


class Sweep:
    """A planned sweep that is carried out."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def carry_out(self) -> list[dict[str, Any]]:
        """Run what is to be run, one job after the other; the ledger's lines, best first."""
        plan = self.plan
        if plan.resume and not (plan.folder / LEDGER).exists():
            _say(f"{plan.folder} has no sweep yet: this is a fresh start.")
        ledger = Ledger(plan.folder, plan.request(), resume=plan.resume)
        try:
            with Interrupt() as interrupt:
                self._run_all(ledger, interrupt)
        finally:
            ledger.close()
            if ledger.lines:
                _say(self._ranked(ledger).table())
            _say(f"sweep folder  {plan.folder}")
        return self._ranked(ledger).lines

    def _run_all(self, ledger: Ledger, interrupt: Interrupt) -> None:
        plan = self.plan
        chooser: Chooser
        if plan.sampler != "grid" or plan.section.prunes:
            chooser = search.Search(plan.space, plan.section, plan.sampler, plan.metrics)
            chooser.open(plan.folder, ledger.lines)
        else:
            chooser = Grid(plan.space)
        began = time.monotonic()
        to_run = chooser.jobs(dict(ledger.lines))
        while plan.section.timeout is None or time.monotonic() - began < plan.section.timeout:
            job = next(to_run, None)
            if job is None:
                return
            line = self._run(job, chooser, ledger, interrupt)
            ledger.append(line)
            chooser.tell(line)
            self._write(ledger)
            if line["status"] not in (0, "pruned"):
                self._report(line)
        _say(f"sweep.timeout: {plan.section.timeout:g} seconds have passed; no further job is started.")

    def _run(self, job: Job, chooser: Chooser, ledger: Ledger, interrupt: Interrupt) -> dict[str, Any]:
        """Run one job to its end; its line of the ledger. Raises ``StoppedError`` if a signal ended it."""
        plan = self.plan
        if interrupt.signal_number:
            raise StoppedError(interrupt.signal_number, f"stopped by a signal; {self._how_to_go_on()}")
        folder = plan.folder / str(job.number)
        own = plan.space.words(job.values)
        _say(f"job {job.number}: {' '.join(map(redacted, own))}")
        watch = chooser.watch(job)
        if plan.resume and (folder / run_folder.RESULTS).is_file():
            ended = jobs.finished(folder, watch)  # and the sweep was killed before it wrote that down
        else:
            ended = jobs.run(
                [*plan.flags, *own, *plan.plugins, *self._taken_up(folder)],
                folder,
                interrupt=interrupt,
                watch=watch,
                keep_open=[ledger.descriptor],
            )
        if ended.stopped:
            raise StoppedError(
                interrupt.signal_number, f"stopped by a signal in job {job.number}; {self._how_to_go_on()}"
            )
        line: dict[str, Any] = {
            "job": job.number,
            "status": ended.status,
            "overrides": [redacted(word) for word in own],
            "differences": self._differences(job),
            "folder": str(folder),
        }
        if ended.pruned_at is not None:
            line |= {**ended.pruned_at, "status": "pruned"}
            _say(f"job {job.number}: ended early at step {line['step']}, it is not among the better ones.")
        elif ended.status == 0:
            line |= self._results(folder)
        else:
            line["error"] = hidden(ended.error or "", own)
        return line

    def _taken_up(self, folder: Path) -> list[str]:
        """The word with which a job goes on where a killed sweep left it.

        One that saves no state begins again, and what it left is set aside.
        """
        if not self.plan.resume or self.plan.config.task != "train":
            return []
        if not (folder / run_folder.CONFIG).exists() and not checkpoints(folder):
            return []
        if not self.plan.config.checkpoint.save_only_model:
            return ["resume=auto"]
        aside = next(
            path
            for number in range(1, 10**6)
            if not (path := folder.with_name(f"set-aside-{folder.name}-{number}")).exists()
        )
        folder.rename(aside)
        _say(f"set aside {aside}, which holds no state to go on from.")
        return []

    def _results(self, folder: Path) -> dict[str, Any]:
        """What a finished job is summed up by; ``ConfigError`` without a metric that was asked for."""
        plan = self.plan
        results = json.loads((folder / run_folder.RESULTS).read_text())
        if plan.config.task != "train":
            results |= compared(plan.config, results)
        found = [name for name, value in results.items() if _is_metric(name, value)]
        for name in plan.metrics if plan.section.metrics or plan.sampler != "grid" else ():
            if name not in results:
                raise ConfigError(f"sweep.metrics: {folder} gave no {name!r}; choose of {', '.join(found)}.")
        if len(plan.section.metrics) == 1 or plan.sampler != "grid":
            name, direction = next(iter(plan.metrics.items()))
            results |= {"metric_name": name, "metric": results[name]}
            results["greater_is_better"] = direction == "maximize"
        elif plan.section.direction is not None:
            results["greater_is_better"] = plan.section.direction == "maximize"
        return results

    def _differences(self, job: Job) -> dict[str, Any]:
        """The values of a job that it does not share with all others, by path."""
        return {each.name: _number(job.values[each.key]) for each in self.plan.space.dimensions}

    def _ranked(self, ledger: Ledger) -> Leaderboard:
        """All jobs that ended, by the metrics asked for or what the jobs say they are compared by."""
        lines = [*ledger.lines.values()]
        metrics = self.plan.metrics
        said = next((line for line in lines if "metric_name" in line), None)
        if said is not None and len(metrics) == 1:
            metrics = {said["metric_name"]: "maximize" if said["greater_is_better"] else "minimize"}
        return leaderboard(lines, metrics)

    def _write(self, ledger: Ledger) -> None:
        """The leaderboard's files as things stand; a disk that refuses them does not end the sweep."""
        plan = self.plan
        shared = [redacted(part) for part in plan.space.parts if isinstance(part, str)]
        notes = [
            ("Command", " ".join(["train.py --multirun", *plan.flags, *shared])),
            *(("Swept", redacted(each.text)) for each in plan.space.dimensions),
            ("Sampler", plan.sampler),
            ("Folder", str(plan.folder)),
        ]
        try:
            self._ranked(ledger).write(plan.folder, f"Sweep {plan.folder.name}", notes)
        except OSError as error:
            _say(f"{plan.folder / HTML} cannot be written: {error.strerror or error}.")

    def _report(self, line: Mapping[str, Any]) -> None:
        """Say at once that a job failed; raises ``StockpotError`` where the sweep ends with it."""
        said = f"job {line['job']} failed (exit status {line['status']}): {line['error']}"
        if self.plan.section.on_failure == "go_on":
            _say(said)
            return
        error = StockpotError(
            f"{said}\nsweep.on_failure=stop: no further job is started; {self._how_to_go_on()}"
        )
        error.exit_status = max(line["status"], 1)
        raise error

    def _how_to_go_on(self) -> str:
        return f"go on by the same command line with output_dir={self.plan.folder} resume=auto."


def _is_metric(name: str, value: Any) -> bool:
    return isinstance(value, float) and name.startswith(("eval_", "test_", "train_")) and not is_timing(name)


def _number(value: Value) -> Value:
    """A text as the number that it is, if it is one."""
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _say(text: str) -> None:
    print(text, flush=True)
