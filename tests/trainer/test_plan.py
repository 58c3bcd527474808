"""The numbers of a run: derived once, exact, and what then happens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conf.decode import decode
from conf.errors import ConfigError
from trainer.config import RunConfig
from trainer.data.cache import TokenRows, write_once
from trainer.data.rows import RowSet
from trainer.plan import Points, count_steps, make_plan, points

# -- when something is due ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "steps", "options", "wanted"),
    [
        ("no", 5, {}, []),
        ("no", 5, {"first": True}, [1]),
        ("steps", 5, {}, [5, 10, 15, 20, 22]),
        ("steps", 11, {}, [11, 22]),
        ("steps", 100, {}, [22]),
        ("steps", 5, {"first": True}, [1, 5, 10, 15, 20, 22]),
        ("steps", 5, {"delay": 10}, [10, 15, 20, 22]),
        ("steps", 5, {"delay": 10.5}, [15, 20, 22]),
        ("steps", 5, {"delay": 22}, [22]),
        ("steps", 5, {"delay": 23}, []),
        ("steps", 0.1, {}, [3, 6, 9, 12, 15, 18, 21, 22]),
        ("steps", 0.001, {}, list(range(1, 23))),
        ("steps", 0.999, {}, [22]),
        ("epoch", None, {}, [8, 16, 22]),
        ("epoch", None, {"delay": 2}, [16, 22]),
        ("epoch", None, {"delay": 1.5}, [16, 22]),
        ("epoch", None, {"delay": 2.75}, [22]),
        ("epoch", None, {"delay": 3}, []),
    ],
)
def test_points(strategy: str, steps: float | None, options: dict[str, Any], wanted: list[int]) -> None:
    found = points(strategy, steps, 22, 8, path="x", **options)
    assert found.steps(22) == wanted
    assert [step for step in range(1, 23) if found.includes(step)] == wanted


def test_a_stream_has_no_epochs_to_act_on() -> None:
    with pytest.raises(ConfigError) as raised:
        points("epoch", None, 22, None, path="evaluation.eval_strategy")
    assert str(raised.value) == (
        "evaluation.eval_strategy: 'epoch' needs a data set of known length, and this one is streamed; "
        "use steps."
    )


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Points(), "never"),
        (Points(every=5), "4 times, at step 5, 10, 15, 20"),
        (Points(every=2, last=22), "11 times, at step 2, 4, 6, ..., 20, 22"),
    ],
)
def test_points_in_words(found: Points, text: str) -> None:
    assert found.describe(22) == text


# -- steps and epochs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "per_epoch", "wanted"),
    [
        ({"num_train_epochs": 3}, 7, (21, 3.0)),
        ({"num_train_epochs": 0.5}, 7, (4, 4 / 7)),
        ({"num_train_epochs": 2.01}, 7, (15, 15 / 7)),
        ({"max_steps": 10}, 7, (10, 10 / 7)),
        ({"max_steps": 10, "num_train_epochs": 3}, 7, (10, 10 / 7)),
        ({"max_steps": 10}, None, (10, None)),
    ],
)
def test_counting_steps(
    training: dict[str, Any], per_epoch: int | None, wanted: tuple[int, float | None]
) -> None:
    assert count_steps(decode(RunConfig, {"training": training}), per_epoch) == wanted


@pytest.fixture
def row_set(tmp_path: Path) -> Callable[..., RowSet]:
    """Documents of these lengths, every second token supervised."""

    def make(lengths: list[int], capacity: int | None = None) -> RowSet:
        def fill(writer: Any) -> dict[str, Any]:
            for number, length in enumerate(lengths):
                mask = (np.arange(length) % 2).astype(np.uint8)
                writer.add(
                    {"input_ids": np.zeros(length, np.int32), "loss_mask": mask}, "a.jsonl", number + 1
                )
            return {}

        write_once(tmp_path / "rows", fill)
        return RowSet([TokenRows(tmp_path / "rows")], capacity=capacity)

    return make


def plan_of(rows: RowSet | None, world_size: int = 1, **sections: Any) -> Any:
    return make_plan(
        decode(RunConfig, sections),
        rows=rows,
        validation_documents=3,
        world_size=world_size,
        parameters=100,
        trainable=60,
        weight_bytes=400,
        activation_bytes=1000,
        processor_bytes=5000,
        plugins={"mine.py": "0123456789abcdef"},
        state_tensors=2,
        notes=("a note",),
    )


LENGTHS = [10] * 25


@pytest.mark.parametrize(("drop_last", "per_epoch"), [(False, 4), (True, 3)])
def test_an_epochs_short_last_step(row_set: Callable[..., RowSet], drop_last: bool, per_epoch: int) -> None:
    training = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    plan = plan_of(row_set(LENGTHS), 2, training=training, data={"dataloader_drop_last": drop_last})
    assert plan.rows_per_step == 2 * 2 * 2
    assert plan.steps_per_epoch == per_epoch
    assert plan.max_steps == 2 * per_epoch
    assert plan.num_train_epochs == 2
    assert (plan.documents, plan.rows, plan.packing_efficiency) == (25, 25, None)
    assert plan.tokens_per_epoch == 250
    assert plan.supervised_tokens_per_epoch == 125
    assert plan.train_tokens == 500


def test_packed_rows_are_what_is_counted(row_set: Callable[..., RowSet]) -> None:
    rows = row_set(LENGTHS, capacity=40)
    plan = plan_of(
        rows, data={"packing": True, "max_length": 40}, training={"per_device_train_batch_size": 2}
    )
    assert (plan.documents, plan.rows) == (25, 7), "six rows of four documents, and one"
    assert plan.packing_efficiency == pytest.approx(250 / 280)
    assert plan.steps_per_epoch == 4
    assert plan.max_steps == 12
    assert plan.tokens_per_epoch == 250


def test_a_step_that_is_never_filled_is_an_error(row_set: Callable[..., RowSet]) -> None:
    text = r"^data\.dataloader_drop_last: 25 rows do not fill one step of 32; leave it off\.$"
    with pytest.raises(ConfigError, match=text):
        plan_of(
            row_set(LENGTHS),
            training={"per_device_train_batch_size": 32},
            data={"dataloader_drop_last": True},
        )


def test_a_streams_plan_says_what_is_known() -> None:
    plan = plan_of(
        None, training={"max_steps": 10}, schedule={"warmup_ratio": 0.15}, data={"streaming": True}
    )
    assert (plan.max_steps, plan.warmup_steps) == (10, 2)
    assert plan.num_train_epochs is plan.tokens_per_epoch is plan.rows is plan.train_tokens is None
    assert dict(plan.lines())["steps"] == "10, each of 8 rows on 1 rank"


def test_a_run_that_has_a_name_is_shown_by_it(row_set: Callable[..., RowSet]) -> None:
    plan = plan_of(row_set(LENGTHS), logging={"run_name": "first"})
    assert plan.lines()[0] == ("run", "first")
    assert plan.to_dict()["run_name"] == "first"
    assert "run" not in dict(plan_of(row_set(LENGTHS)).lines())


def test_bytes_and_what_a_person_sees(row_set: Callable[..., RowSet]) -> None:
    evaluation = {"eval_strategy": "steps", "eval_steps": 4}
    plan = plan_of(row_set(LENGTHS), evaluation=evaluation, training={"max_steps": 10})
    assert 400 + 2 * 4 * 60 + 5000 < plan.checkpoint_bytes < 10**5
    assert plan.peak_memory_bytes > 400 + 4 * 60 + 2 * 4 * 60 + 1000
    lines = dict(plan.lines())
    assert lines["steps"] == "10 = 2.5 epochs of 4, each of 8 rows on 1 rank"
    assert lines["training data"] == "25 documents in 25 rows"
    assert lines["tokens"] == "250 an epoch, 125 of them supervised; 625 in all"
    assert lines["evaluate"] == "3 times, at step 4, 8, 10"
    assert lines["parameters"] == "100, 60 of them trained"
    assert lines["note"] == "a note"
    assert lines["plug-in"] == "mine.py (0123456789ab)"
    plain = plan.to_dict()
    assert plain["evaluate"] == [4, 8, 10]
    assert plain["notes"] == ["a note"]
    assert plain["plugins"] == {"mine.py": "0123456789abcdef"}
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain
    assert json.loads(json.dumps(plain)) == plain


# -- what then happens ---------------------------------------------------------------------------------

EVERY = {"logging.logging_steps": 2, "evaluation.eval_steps": 3, "checkpoint.save_steps": 0.5}
RUNS: dict[str, dict[str, Any]] = {
    "steps": {**EVERY, "training.max_steps": 5},
    "a first line and a delay": {
        **EVERY,
        "training.max_steps": 5,
        "logging.logging_first_step": "true",
        "evaluation.eval_delay": 4,
    },
    "epochs": {
        "training.max_steps": 5,
        "logging.logging_strategy": "epoch",
        "evaluation.eval_strategy": "epoch",
        "checkpoint.save_strategy": "epoch",
        "logging.logging_first_step": "true",
    },
    "epochs with a delay": {
        "training.max_steps": 5,
        "logging.logging_strategy": "no",
        "evaluation.eval_strategy": "epoch",
        "evaluation.eval_delay": 2,
        "checkpoint.save_strategy": "no",
        "logging.logging_first_step": "true",
    },
    "a delay beyond the end": {**EVERY, "training.max_steps": 4, "evaluation.eval_delay": 50},
    "a share of an epoch": {"training.num_train_epochs": 1.5, "training.max_steps": -1, **EVERY},
}


@pytest.mark.parametrize("name", RUNS)
def test_what_happens_is_what_was_planned(
    name: str, train: Any, tiny: tuple[str, ...], tmp_path: Path
) -> None:
    rows = (Path(__file__).parents[2] / "recipes/data/chat/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(rows[:9]))
    words = (
        *("data.packing=false", "~data.train.chat", "data.train.few={path: few.jsonl, format: chat}"),
        *(
            "training.per_device_train_batch_size=4",
            "checkpoint.save_total_limit=null",
            "callbacks.progress=null",
        ),
        *("evaluation.eval_steps=null", "checkpoint.save_steps=500"),
    )
    chosen = RUNS[name]
    # Nine rows, four a step: three steps an epoch, the last of them short.
    if chosen.get("evaluation.eval_strategy") == "epoch":
        words = words[:-2]
    done = train(*tiny, *words, *(f"{path}={value}" for path, value in chosen.items()))
    assert done.status == 0, done.error
    plan = yaml.safe_load((done.folder / "plan.yaml").read_text())
    assert plan["steps_per_epoch"] == 3
    steps = max(line["step"] for line in done.metrics)
    assert done.results["global_step"] == plan["max_steps"] >= steps
    assert [line["step"] for line in done.metrics if "loss" in line] == plan["log"]
    assert [line["step"] for line in done.metrics if "eval_loss" in line] == plan["evaluate"]
    saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in done.folder.glob("checkpoint-*"))
    assert saved == plan["save"]
    for checkpoint in done.folder.glob("checkpoint-*"):
        size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
        assert size == pytest.approx(plan["checkpoint_bytes"], rel=0.05)
    if plan["log"] and plan["log"][-1] == plan["max_steps"] == 5:
        last = [line for line in done.metrics if "loss" in line][-1]
        assert last["epoch"] == pytest.approx(5 / 3, abs=1e-6)
        assert math.isfinite(last["loss"])


def test_the_best_step_is_not_known_before() -> None:
    found = points("best", 500, 10, 5, path="checkpoint.save_strategy")
    assert found.steps(10) == []
    assert found.describe(10) == "whenever an evaluation is the best so far"
