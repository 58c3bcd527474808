"""A sweep from its command line to its leaderboard: in real processes, and with jobs that seem to run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conf.errors import ConfigError, StockpotError, StoppedError
from tests.conftest import ROOT
from trainer.sweeps import jobs
from trainer.sweeps.jobs import Ended
from trainer.sweeps.sweep import sweep

LR = "optimizer.learning_rate"


def ledger_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


# -- in processes of its own ---------------------------------------------------------------------------


def test_two_jobs_of_which_one_explodes_and_ends_alone(
    train_in_process_of_its_own: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    words = (
        "optimizer=sgd",
        f"{LR}=1e30,1e-3",
        "training.max_grad_norm=0",
        "output_dir=sweep",
        "checkpoint.save_strategy=no",
    )
    cold = {"STOCKPOT_CACHE": str(tmp_path / "cache")}
    done = train_in_process_of_its_own("--multirun", *tiny, *words, "training.max_steps=3", env=cold)
    assert done.status == 0, done.err
    ledger = ledger_of(tmp_path / "sweep")
    assert [(found["job"], found["status"]) for found in ledger] == [(0, 3), (1, 0)]
    assert ledger[1]["folder"] == "sweep/1"
    assert f"{LR}=0.001" in ledger[1]["overrides"]
    assert [found["differences"] for found in ledger] == [{LR: 1e30}, {LR: 0.001}]
    results = json.loads((tmp_path / "sweep" / "1" / "all_results.json").read_text())
    assert ledger[1]["metric"] == results["eval_loss"] == results["metric"]
    assert "is not finite; no update was applied" in ledger[0]["error"]
    said = f"job 0 failed (exit status 3): {ledger[0]['error']}"
    shown = done.out.splitlines()
    assert shown.index(said) < next(i for i, text in enumerate(shown) if text.startswith("job 1: "))
    assert shown[-4].split() == ["rank", "job", "eval_loss", "differences"]
    assert shown[-3].split() == ["1", "1", f"{results['eval_loss']:.6g}", f"{LR}=0.001"]
    assert shown[-2].split() == ["-", "0", "failed", "(3)", f"{LR}=1e+30"]
    assert shown[-1] == "sweep folder  sweep"
    assert shown.count("preparing the data (once; it is cached) ...") == 1, "the second job found it made"
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == [
        "0", "1", "leaderboard.csv", "leaderboard.html", "sweep.jsonl", "sweep.yaml",
    ]  # fmt: skip
    assert 'href="./1/report.html"' in (tmp_path / "sweep" / "leaderboard.html").read_text()


@pytest.mark.stress  # real processes, twenty seconds
def test_a_search_that_is_stopped_goes_on_where_it_was(tiny: Sequence[str], tmp_path: Path) -> None:
    """And comes to the same results as one that ran through; jobs that do badly are ended early."""
    command = [
        *(sys.executable, "-m", "trainer", "--multirun", *tiny),
        *("training.max_steps=4", "evaluation.eval_steps=1", "checkpoint.save_steps=1"),
        f"{LR}=tag(log,interval(1e-6,1e-1))",
        *("sweep.n_trials=4", "sweep.sampler=random", "sweep.pruner={name: median, n_startup_trials: 1}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(folder: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, f"output_dir={folder}", "resume=auto"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole, stopped = start("whole"), start("stopped")
    metrics = tmp_path / "stopped" / "0" / "metrics.jsonl"
    while stopped.poll() is None and not (metrics.exists() and "eval_loss" in metrics.read_text()):
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, err
    assert "train.py: stopped by a signal in job 0; go on by the same command line with output_dir=" in err
    assert ledger_of(tmp_path / "stopped") == []
    for process in (whole, going := start("stopped")):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert going.args == stopped.args
    assert "going on from stopped/0/checkpoint-" in out
    tables = [(tmp_path / name / "leaderboard.csv").read_text() for name in ("whole", "stopped")]
    assert tables[0] == tables[1].replace("stopped/", "whole/")
    ledger = ledger_of(tmp_path / "stopped")
    assert [line["job"] for line in ledger] == [0, 1, 2, 3]
    pruned = [line for line in ledger if line["status"] == "pruned"]
    assert pruned
    for line in pruned:
        assert line["step"] < 4
        assert list((tmp_path / line["folder"]).glob("checkpoint-*")), "it saved"


# -- with jobs that only seem to run -------------------------------------------------------------------

Outcome = Ended | Mapping[str, float] | BaseException


class Fake:
    """Stands for the processes: what each job is to come to, and with which words it was begun."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.begun: list[tuple[int, list[str]]] = []

    def run(self, words: Sequence[str], folder: Path, **options: Any) -> Ended:
        number = int(folder.name)
        self.begun.append((number, [*words]))
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").touch()
        outcome = self.outcomes.get(number, {"eval_loss": float(number)})
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Ended):
            return outcome
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, **outcome}) + "\n")
        if (watch := options.get("watch")) is not None:
            watch({"step": 1, **outcome})
        best = {"metric_name": "eval_loss", "metric": outcome["eval_loss"], "greater_is_better": False}
        (folder / "all_results.json").write_text(json.dumps({**outcome, **best}))
        return Ended(status=0)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.begun]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """Jobs are not run; the current folder is the test's own."""
    fake = Fake()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "run", fake.run)
    return fake


@pytest.fixture
def swept(tiny: Sequence[str]) -> Callable[..., list[dict[str, Any]]]:
    """``swept(*words)``: a sweep of three seeds into the folder ``s``."""

    def run(*words: str, seeds: str = "1,2,3") -> list[dict[str, Any]]:
        given = [f"training.seed={seeds}"] if seeds else []
        return sweep([*tiny, *given, "output_dir=s", *words])

    return run


def test_a_sweep_that_was_killed_begins_no_job_again_that_ended(fake: Fake, swept: Any) -> None:
    fake.outcomes = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        swept()
    assert fake.numbers == [0, 1]
    fake.outcomes, fake.begun = {}, []
    lines = swept("resume=auto")
    assert fake.numbers == [1, 2]
    assert [line["job"] for line in lines] == [0, 1, 2]
    resumed = [[word for word in words if word.startswith("resume=")] for _, words in fake.begun]
    assert resumed == [["resume=auto"], []], "only what it had begun is gone on with"
    assert not any(word.startswith(("output_dir=", "sweep.")) for _, words in fake.begun for word in words)
    fake.begun = []
    assert swept("resume=auto") == lines
    assert fake.begun == []


def test_a_job_that_finished_just_before_the_kill_is_only_written_down(fake: Fake, swept: Any) -> None:
    swept()
    ledger = Path("s/sweep.jsonl")
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:2])[:-7])
    fake.begun = []
    assert [line["job"] for line in swept("resume=auto")] == [0, 1, 2]
    assert fake.begun == []


def test_a_job_that_finished_where_it_was_to_be_ended_early_counts_as_such(fake: Fake, swept: Any) -> None:
    """Whether a job or the look at it is quicker must not matter, nor a kill in between."""
    words = ("sweep.pruner={name: median, n_startup_trials: 1}",)
    swept(*words, seeds="1,2")
    ledger = Path("s/sweep.jsonl")
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    study = Path("s/study.jsonl")  # without what it was told of the second job
    study.write_text("".join(study.read_text().splitlines(keepends=True)[:-1]))
    Path("s/1/metrics.jsonl").write_text('{"step": 1, "eval_loss": 7.0}\n{"step": 2, "eval_loss": 1.0}\n')
    fake.begun = []
    lines = swept(*words, "resume=auto", seeds="1,2")
    assert fake.begun == []
    assert [(line["job"], line["status"], line.get("step")) for line in lines] == [
        (0, 0, None),
        (1, "pruned", 1),
    ]


def test_a_job_without_a_state_to_go_on_from_begins_again(fake: Fake, swept: Any) -> None:
    fake.outcomes = {0: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        swept("checkpoint.save_only_model=true")
    Path("s/0/mine").touch()
    fake.outcomes = {}
    swept("checkpoint.save_only_model=true", "resume=auto")
    assert (Path("s/set-aside-0-1") / "mine").exists()
    assert not any(word.startswith("resume=") for _, words in fake.begun for word in words)


def test_what_failed_is_tried_again_but_for_a_loss_that_was_not_finite(fake: Fake, swept: Any) -> None:
    failed = {0: Ended(status=3, error="not finite."), 1: Ended(status=-9, error=""), 2: Ended(status=2)}
    fake.outcomes = dict(failed)
    assert [line["status"] for line in swept()] == [3, -9, 2]
    fake.outcomes, fake.begun = {}, []
    lines = swept("resume=auto")
    assert fake.numbers == [1, 2]
    assert [(line["job"], line["status"]) for line in lines] == [(1, 0), (2, 0), (0, 3)]


def test_a_failure_may_end_the_sweep(fake: Fake, swept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake.outcomes = {1: Ended(status=4, error="data.jsonl:7: is no JSON.")}
    with pytest.raises(StockpotError) as raised:
        swept("sweep.on_failure=stop")
    assert raised.value.exit_status == 4
    assert str(raised.value).splitlines() == [
        "job 1 failed (exit status 4): data.jsonl:7: is no JSON.",
        "sweep.on_failure=stop: no further job is started; go on by the same command line with output_dir=s "
        "resume=auto.",
    ]
    assert fake.numbers == [0, 1]
    assert capsys.readouterr().out.splitlines()[-2].split()[:4] == ["-", "1", "failed", "(4)"]
    fake.outcomes = {}
    swept("sweep.on_failure=go_on", "resume=auto")
    assert fake.numbers == [0, 1, 1, 2]


def test_a_signal_is_told_and_nothing_is_written_of_the_job(fake: Fake, swept: Any) -> None:
    fake.outcomes = {0: Ended(status=143, stopped=True)}
    with pytest.raises(StoppedError, match=r"^stopped by a signal in job 0; go on by the same command line"):
        swept()
    assert ledger_of(Path("s")) == []


def test_a_signal_after_a_job_ended_stops_the_next(
    fake: Fake, swept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: Sequence[str], folder: Path, **options: Any) -> Ended:
        os.kill(os.getpid(), signal.SIGTERM)
        return fake.run(words, folder)

    monkeypatch.setattr(jobs, "run", run)
    with pytest.raises(StoppedError) as raised:
        swept()
    assert raised.value.exit_status == 143
    assert [line["job"] for line in ledger_of(Path("s"))] == [0]


def test_a_folder_holds_one_sweep(fake: Fake, swept: Any, capsys: pytest.CaptureFixture[str]) -> None:
    swept("resume=auto")
    assert capsys.readouterr().out.startswith("s has no sweep yet: this is a fresh start.\n")
    with pytest.raises(ConfigError, match="'s' holds a sweep already; add resume=auto to go on with it"):
        swept()
    with pytest.raises(ConfigError, match=r"started with training\.seed '1,2,3', and '1,2' is given now"):
        swept("resume=auto", seeds="1,2")
    with pytest.raises(ConfigError, match=r"started with sweep\.pruner\.name 'none', and 'median' is given"):
        swept("resume=auto", "sweep.pruner=median")


def test_a_search_is_for_the_metrics_it_was_given(fake: Fake, swept: Any) -> None:
    both = "sweep.metrics={loss: minimize, accuracy: maximize}"
    fake.outcomes = {
        0: {"eval_loss": 1.0, "eval_accuracy": 0.1},
        1: {"eval_loss": 2.0, "eval_accuracy": 0.2},
        2: {"eval_loss": 3.0, "eval_accuracy": 0.15},
    }
    words = ("sweep.sampler=nsgaii", "sweep.n_trials=3", both)
    assert [line["job"] for line in swept(*words)] == [0, 1, 2]
    rows = list(csv.reader(Path("s/leaderboard.csv").read_text().splitlines()))
    assert [row[:5] for row in rows] == [
        ["rank", "job", "status", "eval_loss", "eval_accuracy"],
        ["1", "0", "finished", "1.0", "0.1"],
        ["1", "1", "finished", "2.0", "0.2"],
        ["2", "2", "finished", "3.0", "0.15"],
    ]
    assert "Pareto front" in Path("s/leaderboard.html").read_text()
    with pytest.raises(
        ConfigError, match=r"started with sweep\.metrics\.accuracy 'maximize', and None is given"
    ):
        swept(*words[:2], "sweep.metrics={loss: minimize}", "resume=auto")


def test_more_trials_may_be_asked_for(fake: Fake, swept: Any) -> None:
    words = ("sweep.sampler=random", f"{LR}=interval(1e-5,1e-3)")
    swept(*words, "sweep.n_trials=2")
    lines = swept(*words, "sweep.n_trials=4", "resume=auto")
    assert fake.numbers == [0, 1, 2, 3]
    assert len({line["differences"][LR] for line in lines}) == 4


def test_a_grid_is_ranked_by_the_metric_and_the_direction_asked_for(fake: Fake, swept: Any) -> None:
    assert [line["job"] for line in swept("sweep.direction=maximize")] == [2, 1, 0]
    fake.outcomes = {n: {"eval_loss": 1.0, "eval_accuracy": a} for n, a in enumerate((0.2, 0.3, 0.1))}
    lines = swept("sweep.metrics.accuracy=maximize", "output_dir=t")
    assert [(line["job"], line["metric_name"], line["metric"]) for line in lines] == [
        (1, "eval_accuracy", 0.3),
        (0, "eval_accuracy", 0.2),
        (2, "eval_accuracy", 0.1),
    ]


def test_a_metric_that_no_job_gives_ends_the_sweep_at_the_first(fake: Fake, swept: Any) -> None:
    fake.outcomes = {0: {"eval_loss": 1.0, "eval_runtime": 2.0, "train_loss": 3.0}}
    with pytest.raises(ConfigError) as raised:
        swept("sweep.metrics.bleu=maximize")
    assert str(raised.value) == ("sweep.metrics: s/0 gave no 'eval_bleu'; choose of eval_loss, train_loss.")
    assert fake.numbers == [0]


def test_after_the_timeout_no_job_is_started(
    fake: Fake, swept: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 1.0, 59.0, 61.0))
    monkeypatch.setattr("trainer.sweeps.sweep.time", SimpleNamespace(monotonic=lambda: next(clock)))
    swept("sweep.timeout=60", "sweep.sampler=random", f"{LR}=interval(1e-5,1e-3)")
    assert fake.numbers == [0, 1]
    assert "sweep.timeout: 60 seconds have passed; no further job is started.\n" in capsys.readouterr().out


def test_a_leaderboard_that_cannot_be_written_is_said(
    fake: Fake, swept: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.sweeps.leaderboard.Leaderboard.write", full)
    assert len(swept()) == 3
    assert "s/leaderboard.html cannot be written: No space left on device.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"{LR}=1e-3,fast"], f"{LR}: a number is wanted, 'fast' was given."),
        (["optimizer=sgd,sdg"], "optimizer: there is no 'sdg'; did you mean 'sgd'?"),
        (["trainin.seed=1,2"], "trainin: no such key; did you mean 'training'?"),
        (["training.seed=interval(0,1)"], "training.seed: 'training.seed=interval(0,1)' has no end;"),
        (["hello"], "hello: not understood on the command line;"),
        (["training.seed=1,2", "check=true"], "check: it is for one run; leave it or --multirun out."),
    ],
)
def test_a_wrong_job_stops_the_sweep_before_the_first_starts(
    words: list[str], said: str, train: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    done = train("--multirun", *tiny, *words)
    assert done.status == 2
    assert str(done.error).startswith(said)
    assert list(tmp_path.iterdir()) == []
