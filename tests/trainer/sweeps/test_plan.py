"""What is said of a sweep's command line before the first job starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from conf.errors import ConfigError
from trainer.sweeps.plan import planned

LR = "optimizer.learning_rate=tag(log,interval(1e-5,1e-3))"


def without_evaluation(words: Sequence[str]) -> list[str]:
    """The words but for what would do nothing where nothing is evaluated."""
    return [word for word in words if not word.startswith("evaluation.")]


def test_a_grid_is_the_default_and_a_search_where_values_have_no_end(tiny: Sequence[str]) -> None:
    assert planned([*tiny, "training.seed=1,2"]).sampler == "grid"
    found = planned([*tiny, LR, "sweep.n_trials=3"])
    assert (found.sampler, found.metrics) == ("tpe", {"eval_loss": "minimize"})
    assert planned([*tiny, LR, "sweep.timeout=3"]).sampler == "tpe"
    assert (
        planned([*tiny, "training.seed=1,2", "sweep.sampler=random", "sweep.n_trials=9"]).sampler == "random"
    )


@pytest.mark.parametrize(
    ("words", "metrics"),
    [
        ([], {"eval_loss": "minimize"}),
        (["sweep.direction=maximize"], {"eval_loss": "maximize"}),
        (["metrics=accuracy", "evaluation.metric_for_best_model=accuracy"], {"eval_accuracy": "maximize"}),
        (
            ["evaluation.metric_for_best_model=eval_loss", "evaluation.greater_is_better=true"],
            {"eval_loss": "maximize"},
        ),
        (["evaluation.eval_strategy=no"], {"train_loss": "minimize"}),
        (["sweep.metrics.perplexity=minimize"], {"eval_perplexity": "minimize"}),
        (
            ["sweep.metrics={eval_loss: minimize, accuracy: maximize, train_loss: minimize}"],
            {"eval_loss": "minimize", "eval_accuracy": "maximize", "train_loss": "minimize"},
        ),
    ],
)
def test_what_jobs_are_compared_by(words: list[str], metrics: dict[str, str], tiny: Sequence[str]) -> None:
    assert planned([*without_evaluation(tiny), "training.seed=1,2", *words]).metrics == metrics


N = "sweep.n_trials=3"
SEEDS = "training.seed=1,2"
WRONG: list[tuple[list[str], str]] = [
    ([LR], "optimizer.learning_rate: 'optimizer.learning_rate=tag(log,interval(1e-5,1e-3))' has no end;"),
    ([LR, "sweep.sampler=grid", N], "optimizer.learning_rate: 'optimizer.learning_rate=tag(log,interval("),
    (
        [SEEDS, N],
        "sweep.n_trials: a grid has as many jobs as there are combinations; leave it out, or search",
    ),
    ([SEEDS, "sweep.seed=3"], "sweep.seed: nothing is drawn in a grid; leave it out."),
    (
        [SEEDS, "sweep.sampler=tpe"],
        "sweep.n_trials: tpe has no end by itself; say how many jobs it is to try.",
    ),
    ([LR, "sweep.n_trials=0"], "sweep.n_trials: at least 1 is wanted, 0 was given."),
    ([LR, N, "sweep.timeout=0"], "sweep.timeout: more than 0 seconds are wanted, 0.0 was given."),
    ([LR, N, "sweep.sampler=tp"], "sweep.sampler: 'tp' is none of its values; did you mean 'tpe'?"),
    ([LR, N, "sweep.pruner=medan"], "sweep.pruner.name: there is no 'medan'; did you mean 'median'?"),
    ([LR, N, "sweep.n_trails=2"], "sweep.n_trails: no such key; did you mean 'sweep.n_trials'?"),
    (
        [LR, N, "sweep.pruner=median", "evaluation.eval_strategy=no"],
        "sweep.pruner: nothing is evaluated on the way, so no job could be ended early; set evaluation.",
    ),
    (
        [LR, N, "sweep.pruner=median", "sweep.metrics={loss: minimize, accuracy: maximize}"],
        "sweep.pruner: it needs one value to compare, and several metrics are given.",
    ),
    (
        [LR, N, "sweep.direction=minimize", "sweep.metrics.accuracy=maximize"],
        "sweep.direction: metrics say theirs; leave one of them out.",
    ),
    (
        [LR, N, "sweep.pruner={name: percentile, percentile: 101}"],
        "sweep.pruner.percentile: from 0 to 100 is wanted, 101.0 was given.",
    ),
    (
        [LR, N, "sweep.pruner={name: hyperband, min_resource: 9, max_resource: 3}"],
        "sweep.pruner.max_resource: at least 9 is wanted, 3 was given.",
    ),
    (
        [LR, N, "sweep.pruner={name: hyperband, bootstrap_count: 3}"],
        "sweep.pruner.bootstrap_count: it needs a number for max_resource, which is 'auto'.",
    ),
    (
        [LR, N, "sweep.pruner={name: successive_halving, bootstrap_count: 3}"],
        "sweep.pruner.bootstrap_count: it needs a number for min_resource, which is 'auto'.",
    ),
    (
        [LR, N, "sweep.pruner=patient"],
        "sweep.pruner.patience: a value is required and none was given.",
    ),
    (
        [LR, N, "sweep.pruner={name: patient, patience: 1, wrapped_pruner: {name: patient, patience: 1}}"],
        "sweep.pruner.wrapped_pruner: it is patient itself; choose another, or none.",
    ),
    (
        [LR, N, "resume=x/checkpoint-3"],
        "resume: 'x/checkpoint-3' is for one run; a sweep goes on with resume",
    ),
    ([LR, N, "resume=auto"], "resume: 'auto' needs the sweep's folder; give output_dir=SWEEP as well."),
    ([SEEDS, "check=true"], "check: it is for one run; leave it or --multirun out."),
    (["optimizer.learning_rate=interval(-1,1)", N], "optimizer.learning_rate: "),
    (
        ["training.per_device_train_batch_size=int(interval(0,4))", N],
        "training.per_device_train_batch_size: at least 1 is wanted, 0 was given.",
    ),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[said.split(";")[0][:60] for _, said in WRONG])
def test_what_is_wrong_is_said_before_the_first_job(
    words: list[str], said: str, tiny: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        planned([*without_evaluation(tiny), *words])
    assert raised.value.problems[0].startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_every_wrong_job_of_a_grid_is_named_once(tiny: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        planned([*tiny, "optimizer.learning_rate=fast,1e-3,slow", "training.seed=1,2"])
    assert raised.value.problems == tuple(
        f"optimizer.learning_rate: a number is wanted, {word!r} was given." for word in ("fast", "slow")
    )


def test_it_is_for_a_process_without_a_launcher(tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="every process of a launcher would run it; start it without one"):
        planned([*tiny, SEEDS])


def test_its_options_are_for_a_sweep(train: Any, tiny: Sequence[str], tmp_path: Path) -> None:
    done = train(*tiny, "sweep.n_trials=3")
    assert str(done.error) == (
        "sweep.n_trials: it is about the jobs of a sweep; add --multirun, or leave it out."
    )
    (tmp_path / "recipe").mkdir()
    text = "# @package _global_\ndefaults: [sft_llama, _self_]\nsweep: {sampler: tpe, n_trials: 2}\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(text)
    words = ("--config-dir", str(tmp_path), "+recipe=mine", *tiny[1:])
    done = train(*words, "check=true")
    assert done.status == 0, done.error
    found = planned([*words, LR])
    assert (found.sampler, found.section.n_trials) == ("tpe", 2)


def test_what_was_asked_for_is_kept_without_secrets(tiny: Sequence[str]) -> None:
    words = (
        "hub.push_to_hub=true",
        "hub.hub_token=hf_Secret",
        LR,
        N,
        "output_dir=x",
        "sweep.on_failure=stop",
    )
    request = planned([*tiny, *words], ["mine.py"]).request()
    assert request["jobs"]["hub.hub_token"] == "<HUB_TOKEN>"
    assert request["jobs"]["optimizer.learning_rate"] == LR.partition("=")[2]
    assert request["jobs"]["plugins"] == "plugins=mine.py"
    assert request["sweep"] == {
        "sampler": "tpe",
        "seed": 42,
        "direction": None,
        "metrics": {},
        "pruner": {"name": "none"},
    }
    assert "output_dir" not in request["jobs"]
