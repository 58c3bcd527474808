"""A search by Optuna: what it chooses, what it is told, and how it goes on after a kill."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from conf.decode import decode
from conf.errors import CheckpointError, ConfigError
from trainer.sweeps.choosers import Job
from trainer.sweeps.options import SweepSection
from trainer.sweeps.search import Search, refuse
from trainer.sweeps.space import read
from trainer.sweeps.studies import STUDY, distribution, make_pruner, make_sampler

SPACE = ("x=interval(0,1)", "+y=tag(log,int(interval(1,64)))", "z=u,v", "fixed=1")
NUMBERS = ("x=interval(0,1)", "y=tag(log,interval(1e-3,1))")
LOSS = {"eval_loss": "minimize"}


def searched(
    folder: Path, words: tuple[str, ...] = SPACE, metrics: Any = LOSS, lines: Any = None, **section: Any
) -> Search:
    """A search of ten trials by random, unless ``section`` says otherwise."""
    given = decode(SweepSection, {"n_trials": 10, "sampler": "random", **section})
    assert given.sampler is not None
    search = Search(read(words), given, given.sampler, metrics)
    search.open(folder, lines or {})
    return search


def result(job: Job) -> float:
    return sum(float(value) for value in job.values.values() if value not in ("u", "v"))


def line(job: Job, status: int | str = 0, **metrics: float) -> dict[str, Any]:
    return {"job": job.number, "status": status, "overrides": [], **metrics}


def carried_out(jobs: Iterator[Job], search: Search, count: int = 100) -> list[dict[str, Any]]:
    """The values of up to ``count`` further jobs, each told its result."""
    found = []
    for _, job in zip(range(count), jobs, strict=False):  # in this order it takes no job too many
        found.append(dict(job.values))
        search.tell(line(job, eval_loss=result(job)))
    return found


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsgaii", "cmaes", "qmc", "grid"])
def test_a_search_that_was_killed_chooses_what_it_would_have_chosen(sampler: str, tmp_path: Path) -> None:
    words = NUMBERS if sampler == "cmaes" else ("x=1,2,3", "z=u,v") if sampler == "grid" else SPACE
    options: dict[str, Any] = {"sampler": sampler, "n_trials": 16}
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    whole = searched(folders[0], words, **options)
    wanted = carried_out(whole.jobs({}), whole)
    assert len(wanted) == (6 if sampler == "grid" else 16)
    found: list[dict[str, Any]] = []
    while len(found) < len(wanted):
        search = searched(folders[1], words, **options)
        jobs = search.jobs({})
        found += carried_out(jobs, search, count=3)
        if len(found) < len(wanted):
            under_way = next(jobs)  # what it was about when it was killed
            assert under_way.number == len(found)
    assert found == wanted


def test_values_keep_to_the_space_and_are_words_of_the_command_line(tmp_path: Path) -> None:
    search = searched(tmp_path)
    values = carried_out(search.jobs({}), search)
    assert len(values) == 10
    for each in values:
        assert 0 <= each["x"] <= 1
        assert each["+y"] in range(1, 65)
        assert each["z"] in ("u", "v")
        words = search.space.words(each)
        assert words == [f"x={each['x']}", f"+y={each['+y']}", f"z={each['z']}", "fixed=1"]
        assert float(words[0][2:]) == each["x"], "nothing is lost in writing it"


def test_distributions() -> None:
    def of(word: str, **options: bool) -> Any:
        return distribution(read([word]).dimensions[0], **options)

    assert of("a=interval(0,1)") == FloatDistribution(0.0, 1.0)
    assert of("a=tag(log,interval(1e-4,1))") == FloatDistribution(1e-4, 1.0, log=True)
    assert of("a=int(interval(1,8))") == IntDistribution(1, 8)
    assert of("a=tag(log,int(interval(1,8)))") == IntDistribution(1, 8, log=True)
    assert of("a=range(1,10,4)") == IntDistribution(1, 9, step=4)
    assert of("a=range(1,10,4)", as_choice=True) == CategoricalDistribution(("1", "5", "9"))
    assert of("a=x,[1,2],3") == CategoricalDistribution(("x", "[1,2]", "3"))


def test_a_result_that_the_study_was_not_told_of_is_told_from_the_ledger(tmp_path: Path) -> None:
    search = searched(tmp_path)
    jobs = search.jobs({})
    carried_out(jobs, search, count=2)
    ended = next(jobs)
    again = searched(tmp_path)
    lines = {ended.number: line(ended, eval_loss=result(ended))}
    following = next(again.jobs(lines))
    assert following.number == 3
    trials = again.study.trials
    assert [trial.state for trial in trials] == [*[TrialState.COMPLETE] * 3, TrialState.RUNNING]
    assert trials[2].value == result(ended)


def test_what_the_study_is_told(tmp_path: Path) -> None:
    search = searched(tmp_path, n_trials=4)
    told = [
        {"status": 0, "eval_loss": 1.5},
        {"status": 0, "eval_loss": math.inf},
        {"status": 3},
        {"status": "pruned", "eval_loss": 2.5},
    ]
    for job, more in zip(search.jobs({}), told, strict=True):
        search.tell({"job": job.number, "overrides": [], **more})
    assert [trial.state for trial in search.study.trials] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.PRUNED,
    ]
    assert search.study.best_value == 1.5


def test_several_metrics(tmp_path: Path) -> None:
    metrics = {"eval_loss": "minimize", "eval_accuracy": "maximize"}
    search = searched(tmp_path, metrics=metrics, sampler="nsgaii", n_trials=3)
    for job in search.jobs({}):
        search.tell(line(job, eval_loss=float(job.number), eval_accuracy=float(job.number > 1)))
    assert [trial.number for trial in search.study.best_trials] == [0, 2]


def test_evaluations_are_reported_and_the_pruner_asked(tmp_path: Path) -> None:
    pruner = {"name": "median", "n_startup_trials": 1}
    search = searched(tmp_path, pruner=pruner)
    jobs = search.jobs({})
    first = next(jobs)
    watch = search.watch(first)
    assert watch is not None
    for step in (2, 4):
        assert watch({"step": step, "loss": 9.0}) is False
        assert watch({"step": step, "eval_loss": 1.0 + step}) is False
    assert watch({"step": 4, "eval_loss": 0.0, "train_runtime": 1.0}) is False, "the summary is no evaluation"
    search.tell(line(first, eval_loss=5.0))
    second = next(jobs)
    watch = search.watch(second)
    assert watch is not None
    assert watch({"step": 2, "eval_loss": 2.0}) is False
    again = searched(tmp_path, pruner=pruner)  # killed here, it begins with the lines that it has reported
    continued = next(again.jobs({}))
    assert continued == second
    watch = again.watch(continued)
    assert watch is not None
    assert watch({"step": 2, "eval_loss": 2.0}) is False
    assert watch({"step": 4, "eval_loss": 6.0}) is False, "its best value was better than the median"
    again.tell({**line(continued, status="pruned"), "step": 4})
    third = again.jobs({})
    watch = again.watch(next(third))
    assert watch is not None
    assert watch({"step": 2, "eval_loss": 4.0}) is True
    reported = [trial.intermediate_values for trial in again.study.trials]
    assert reported == [{2: 3.0, 4: 5.0}, {2: 2.0, 4: 6.0}, {2: 4.0}]
    assert searched(tmp_path).watch(first) is None, "nothing looks without a pruner"


def test_a_grid_that_is_pruned_keeps_its_order(tmp_path: Path) -> None:
    search = searched(tmp_path, ("x=3,1", "z=u,v"), sampler="grid", n_trials=None, pruner="median")
    assert carried_out(search.jobs({}), search) == search.space.grid()


def test_files_that_a_kill_left(tmp_path: Path) -> None:
    search = searched(tmp_path)
    wanted = carried_out(search.jobs({}), search, count=2)
    path = tmp_path / STUDY
    with path.open("a") as file:
        file.write('{"op_code": 5, "wor')
    path.with_name(f"{STUDY}.lock").symlink_to("nowhere")
    again = searched(tmp_path)
    assert carried_out(again.jobs({}), again, count=1) != wanted
    assert len(searched(tmp_path).study.trials) == 3
    with pytest.raises(CheckpointError, match=r"study\.jsonl: it does not know job 7, which the ledger has"):
        searched(tmp_path, lines={7: {}})


PRUNERS: dict[str, tuple[dict[str, Any], Any]] = {
    "none": ({}, optuna.pruners.NopPruner),
    "median": (
        {"n_startup_trials": 1, "n_warmup_steps": 2, "interval_steps": 3, "n_min_trials": 4},
        lambda: optuna.pruners.MedianPruner(1, 2, 3, n_min_trials=4),
    ),
    "percentile": (
        {"percentile": 30, "n_warmup_steps": 2},
        lambda: optuna.pruners.PercentilePruner(30.0, n_warmup_steps=2),
    ),
    "successive_halving": (
        {"min_resource": 5, "bootstrap_count": 2},
        lambda: optuna.pruners.SuccessiveHalvingPruner(5, bootstrap_count=2),
    ),
    "hyperband": ({"max_resource": 27}, lambda: optuna.pruners.HyperbandPruner(1, 27)),
    "patient": (
        {"patience": 2, "min_delta": 0.5, "wrapped_pruner": "median"},
        lambda: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), 2, 0.5),
    ),
}


def plain(pruner: Any) -> Any:
    """A pruner's attributes, down to those of what it wraps."""
    if isinstance(pruner, optuna.pruners.BasePruner):
        return type(pruner), {name: plain(value) for name, value in vars(pruner).items()}
    return pruner


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_pruners_are_made_of_their_options(name: str) -> None:
    options, wanted = PRUNERS[name]
    section = decode(SweepSection, {"pruner": {"name": name, **options}})
    assert plain(make_pruner(section.pruner)) == plain(wanted())


def test_defaults_of_pruners_are_optunas() -> None:
    for name, wanted in {
        "median": optuna.pruners.MedianPruner(),
        "percentile": optuna.pruners.PercentilePruner(25.0),
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner(),
        "hyperband": optuna.pruners.HyperbandPruner(),
    }.items():
        assert plain(make_pruner(decode(SweepSection, {"pruner": name}).pruner)) == plain(wanted)


def test_samplers_by_name() -> None:
    for name, kind in {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "nsgaii": optuna.samplers.NSGAIISampler,
    }.items():
        assert type(make_sampler(name, 1)) is kind  # type: ignore[arg-type]


BAD = [
    ({"sampler": "cmaes"}, SPACE, LOSS, "sweep.sampler: cmaes is for numbers, and z is a choice; take tpe."),
    (
        {"sampler": "cmaes"},
        NUMBERS[:1],
        LOSS,
        "sweep.sampler: cmaes needs two numbers to search over, or more; take tpe.",
    ),
    (
        {"sampler": "cmaes"},
        NUMBERS,
        {**LOSS, "eval_accuracy": "maximize"},
        "sweep.sampler: cmaes is for one metric; take nsgaii or tpe.",
    ),
    (
        {"sampler": "tpe"},
        ("a=1",),
        LOSS,
        "--multirun: nothing is swept; give values, as in a=1,2 or a=interval(0,1).",
    ),
]


@pytest.mark.parametrize(("section", "words", "metrics", "said"), BAD)
def test_what_a_sampler_cannot_do(
    section: Any, words: Any, metrics: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.sweeps.search.NEEDS", {})
    with pytest.raises(ConfigError) as raised:
        refuse(read(words), section["sampler"], metrics)
    assert raised.value.problems == (said,)


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conf.plugins.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as raised:
        refuse(read(SPACE), "qmc", LOSS)  # type: ignore[arg-type]
    assert raised.value.problems == tuple(
        f"sweep.sampler: qmc cannot be used; it needs the package {name}; pip install 'stockpot[optuna]'."
        for name in ("optuna", "scipy")
    )
