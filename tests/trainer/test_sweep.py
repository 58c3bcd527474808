"""A sweep: its jobs, judged before the first starts, run apart, ranked at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from conf.errors import ConfigError
from trainer.sweep import product, rank, table


def jobs(*words: str) -> list[list[str]]:
    return product(OverridesParser.create().parse_overrides(list(words)))


def test_jobs_are_the_product_of_all_values() -> None:
    assert jobs("a.b=1,2", "+recipe=x", "c=choice(u,v)", "d=range(3)") == [
        [f"a.b={a}", "+recipe=x", f"c={c}", f"d={d}"] for a in (1, 2) for c in "uv" for d in range(3)
    ]
    assert jobs("a=[1,2]", "b='x,y'", "~c.d", "e={f: 1}", "g=1e-4,3e-4") == [
        ["a=[1,2]", "b='x,y'", "~c.d", "e={f: 1}", f"g={g}"] for g in (0.0001, 0.0003)
    ]
    assert jobs() == [[]]


def test_a_sweep_without_an_end_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^a: 'a=interval\(0,1\)' has no end; give the values, as in a=1,2\.$"
    ):
        jobs("a=interval(0,1)")


def line(job: int, metric: float | None, status: int = 0, *, greater: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"job": job, "status": status, "overrides": ["+recipe=x", f"++a={job}"]}
    if metric is not None:
        found |= {"metric": metric, "metric_name": "eval_loss", "greater_is_better": greater}
    return found


def test_ranking_puts_the_best_first_and_what_failed_last() -> None:
    lines = [line(0, 2.0), line(1, None, 3), line(2, 1.0), line(3, math.nan), line(4, 1.5)]
    assert [found["job"] for found in rank(lines)] == [2, 4, 0, 1, 3]
    lines = [line(0, 0.5, greater=True), line(1, 0.9, greater=True)]
    assert [found["job"] for found in rank(lines)] == [1, 0]


def test_the_table_shows_what_distinguishes_the_jobs() -> None:
    assert table(rank([line(0, 2.0), line(1, None, 3), line(2, 1.0)])).splitlines() == [
        "rank  job  eval_loss   overrides",
        "1     2    1           a=2",
        "2     0    2           a=0",
        "3     1    failed (3)  a=1",
    ]


def test_two_jobs_of_which_one_explodes_and_ends_alone(
    train: Any, tiny: Sequence[str], tmp_path: Path
) -> None:
    words = (
        "optimizer=sgd",
        "optimizer.learning_rate=1e30,1e-3",
        "training.max_grad_norm=0",
        "output_dir=sweep",
    )
    done = train("--multirun", *tiny, *words, "training.max_steps=3", "checkpoint.save_strategy=no")
    assert done.status == 0, done.error
    ledger = [json.loads(text) for text in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()]
    assert [(found["job"], found["status"]) for found in ledger] == [(0, 3), (1, 0)]
    assert ledger[1]["folder"] == "sweep/1"
    assert "optimizer.learning_rate=0.001" in ledger[1]["overrides"]
    results = json.loads((tmp_path / "sweep" / "1" / "all_results.json").read_text())
    assert ledger[1]["metric"] == results["eval_loss"] == results["metric"]
    assert not (tmp_path / "sweep" / "0" / "all_results.json").exists()
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "1", "sweep.jsonl"]
    shown = done.out.splitlines()
    assert shown[-4].split() == ["rank", "job", "eval_loss", "overrides"]
    assert shown[-3].split() == ["1", "1", f"{results['eval_loss']:.6g}", "optimizer.learning_rate=0.001"]
    assert shown[-2].split() == ["2", "0", "failed", "(3)", "optimizer.learning_rate=1e+30"]
    assert shown[-1] == "sweep folder  sweep"
    again = train("--multirun", *tiny, "output_dir=sweep", "training.seed=1,2")
    assert (again.status, str(again.error)) == (
        2,
        "output_dir: 'sweep' holds a sweep already; choose another.",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["optimizer.learning_rate=1e-3,fast"],
            "optimizer.learning_rate: a number is wanted, 'fast' was given.",
        ),
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
