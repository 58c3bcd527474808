"""Every schedule at every step against the reference's; the plateau's state; the functions for programs."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from transformers import optimization as oracle

from conf.errors import ConfigError
from conf.plugins import options_of, thing_of
from tests.trainer.programs import Classifier, arguments, points
from trainer import Trainer
from trainer.schedules import (
    CATALOG,
    Constant,
    Cosine,
    FactorRates,
    PlateauRates,
    SchedulerType,
    Warmup,
    functions,
    misfits,
    warmup_steps,
)
from trainer.schedules.options import CosineWithMinLR, Plateau, Polynomial, WarmupStableDecay

BASE = 0.02
FOLLOWS_STEPS = [name for name in CATALOG if name != "reduce_lr_on_plateau"]
# Options beyond the lengths; those without any take the defaults.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "cosine": [{}, {"num_cycles": 2.5}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "cosine_with_min_lr": [
        {"min_lr": 0.003},
        {"min_lr_rate": 0.1},
        {"min_lr_rate": 0.0, "num_cycles": 1.5},
        {"min_lr": 0.0},
    ],
    "cosine_warmup_with_min_lr": [
        {"min_lr": 0.003},
        {"min_lr_rate": 0.1, "warmup_lr_rate": 0.25},
        {"min_lr_rate": 0.3, "num_cycles": 1.5, "warmup_lr_rate": 0.0},
    ],
    "polynomial": [{}, {"lr_end": 0.001, "power": 2.0}, {"lr_end": 0.0, "power": 0.5}],
    "inverse_sqrt": [{}, {"timescale": 7}],
    "warmup_stable_decay": [
        {"num_decay_steps": 0},
        {"num_decay_steps": 1, "min_lr_ratio": 0.1},
        {"num_decay_steps": 12, "warmup_type": "cosine", "decay_type": "linear", "min_lr_ratio": 0.2},
        {"num_decay_steps": 12, "warmup_type": "1-sqrt", "decay_type": "1-sqrt", "num_stable_steps": 5},
        {"num_decay_steps": 12, "num_cycles": 1.5},
    ],
}
LENGTHS = [(0, 37), (1, 37), (10, 37), (37, 37), (0, 1), (1, 1), (50, 37)]
CASES = [
    pytest.param(name, options, warmup, total, id=f"{name}-{index}-{warmup}-{total}")
    for name in FOLLOWS_STEPS
    for index, options in enumerate(SETTINGS.get(name, [{}]))
    for warmup, total in LENGTHS
    if warmup + options.get("num_decay_steps", 0) + options.get("num_stable_steps", 0) <= total
    or "num_decay_steps" not in options
]


def an_optimizer() -> torch.optim.Optimizer:
    """Three groups, two with rates that are not the optimizer's own."""
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(3)]
    groups[1]["lr"], groups[2]["lr"] = BASE / 4, BASE * 5
    return torch.optim.SGD(groups, lr=BASE)


def of_the_reference(name: str, options: dict[str, Any], warmup: int, total: int) -> list[list[float]]:
    """The rates of each group at every step, some steps beyond the end too."""
    schedule = transformers.get_scheduler(
        name, an_optimizer(), warmup, total, {**options} if options else None
    )
    return stepped(schedule, total + 6)


def stepped(schedule: Any, steps: int) -> list[list[float]]:
    found: list[list[float]] = []
    schedule.optimizer.step()
    for _ in range(steps):
        found.append(schedule.get_last_lr())
        try:
            schedule.step()
        except ZeroDivisionError:  # the reference's polynomial where all steps are warm-up
            break
    return found


def built(name: str, optimizer: Any, total: int, **options: Any) -> Any:
    return thing_of(CATALOG, name, "schedule")(options_of(CATALOG, name, "")(**options), optimizer, total)


@pytest.mark.parametrize(("name", "options", "warmup", "total"), CASES)
@pytest.mark.filterwarnings("ignore:Both num_training_steps")
def test_every_step_equals_the_reference(name: str, options: dict[str, Any], warmup: int, total: int) -> None:
    expected = of_the_reference(name, options, warmup, total)
    assert len(expected) >= total
    lengths = {} if name == "constant" else {"warmup_steps": warmup}
    optimizer = an_optimizer()
    rates = built(name, optimizer, total, **lengths, **options)
    for step in reversed(range(len(expected))):  # in any order: nothing but the step counts
        rates.set(step)
        assert rates.get_last_lr() == expected[step], step
        assert [group["lr"] for group in optimizer.param_groups] == expected[step]
    scheduler = functions.get_scheduler(name, an_optimizer(), warmup, total, options)
    assert stepped(scheduler, len(expected)) == expected


def test_every_schedule_is_compared_and_varied() -> None:
    assert {case.values[0] for case in CASES} == {*FOLLOWS_STEPS}
    varied = {(name, key) for name, settings in SETTINGS.items() for options in settings for key in options}
    own = {
        (name, key)
        for name in FOLLOWS_STEPS
        for key in options_of(CATALOG, name, "").__dataclass_fields__
        if not key.startswith("warmup_") or key in ("warmup_type", "warmup_lr_rate")
    }
    assert varied == own, "every option is set in some case"


def test_a_run_of_warm_up_alone_ends_at_the_peak() -> None:
    """Where the reference divides by zero."""
    rates = built("polynomial", an_optimizer(), 4, warmup_steps=4)
    assert [rates(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1e-7 / BASE]


def test_a_decay_may_be_a_share_of_all_steps() -> None:
    given = built("warmup_stable_decay", an_optimizer(), 101, num_decay_steps=0.1, warmup_ratio=0.1)
    wanted = built("warmup_stable_decay", an_optimizer(), 101, num_decay_steps=11, warmup_steps=11)
    assert [given(step) for step in range(105)] == [wanted(step) for step in range(105)]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (Constant(), 0),
        (Plateau(), 0),
        (Warmup(), 0),
        (Warmup(warmup_steps=7), 7),
        (Warmup(warmup_steps=0.1), 11),
        (Warmup(warmup_ratio=0.1), 11),
        (Warmup(warmup_ratio=0.0), 0),
        (Warmup(warmup_ratio=1.0), 101),
        (Cosine(warmup_ratio=0.001), 1),
    ],
)
def test_warmup_counts_steps_or_a_share_rounded_up(options: Any, steps: int) -> None:
    assert warmup_steps(options, 101) == steps


def test_the_reference_agrees_on_a_share() -> None:
    arguments = transformers.TrainingArguments(output_dir="unused", warmup_steps=0.1, use_cpu=True)
    assert arguments.get_warmup_steps(101) == warmup_steps(Warmup(warmup_steps=0.1), 101)


WRONG = {
    "cosine_with_min_lr": [
        ({}, "min_lr: it or min_lr_rate is required and none was given."),
        (
            {"min_lr": 1e-5, "min_lr_rate": 0.1},
            "min_lr_rate: min_lr is given too; leave one of them out.",
        ),
        ({"min_lr": -1.0}, "min_lr: 0 or more is wanted, -1.0 was given."),
        ({"min_lr_rate": 1.5}, "min_lr_rate: a share between 0 and 1 is wanted, 1.5 was given."),
    ],
    "cosine_warmup_with_min_lr": [
        (
            {"min_lr": 0.0, "warmup_lr_rate": 2.0},
            "warmup_lr_rate: a share between 0 and 1 is wanted, 2.0 was given.",
        )
    ],
    "cosine": [({"num_cycles": 0.0}, "num_cycles: more than 0 is wanted, 0.0 was given.")],
    "cosine_with_restarts": [({"num_cycles": 0}, "num_cycles: 1 or more is wanted, 0 was given.")],
    "polynomial": [
        ({"power": 0.0}, "power: more than 0 is wanted, 0.0 was given."),
        ({"lr_end": -1.0}, "lr_end: 0 or more is wanted, -1.0 was given."),
    ],
    "inverse_sqrt": [({"timescale": 0}, "timescale: 1 or more is wanted, 0 was given.")],
    "reduce_lr_on_plateau": [
        ({"factor": 1.0}, "factor: between 0 and 1 is wanted, 1.0 was given."),
        ({"patience": -1}, "patience: 0 or more is wanted, -1 was given."),
    ],
    "warmup_stable_decay": [
        (
            {"num_decay_steps": 1.5},
            "num_decay_steps: whole steps or a share below 1 is wanted, 1.5 was given.",
        ),
        (
            {"num_decay_steps": 3, "num_stable_steps": -1},
            "num_stable_steps: 0 or more is wanted, -1 was given.",
        ),
        (
            {"num_decay_steps": 3, "decay_type": "linear", "num_cycles": 2.0},
            "num_cycles: a decay_type of 'linear' has no waves; leave it out.",
        ),
        (
            {"num_decay_steps": 3, "min_lr_ratio": -0.5},
            "min_lr_ratio: a share between 0 and 1 is wanted, -0.5 was given.",
        ),
    ],
    "linear": [
        ({"warmup_steps": 2.5}, "warmup_steps: whole steps or a share below 1 is wanted, 2.5 was given."),
        ({"warmup_ratio": 1.5}, "warmup_ratio: a share between 0 and 1 is wanted, 1.5 was given."),
        (
            {"warmup_steps": 2, "warmup_ratio": 0.5},
            "warmup_ratio: warmup_steps is given too; leave one of them out.",
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [(name, options, sentence) for name, cases in WRONG.items() for options, sentence in cases],
)
def test_wrong_options_are_refused_in_one_sentence(name: str, options: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        options_of(CATALOG, name, "")(**options)
    assert str(raised.value) == sentence


MISFITS = [
    (CosineWithMinLR(min_lr=0.1), "min_lr: 0.1 is above the learning rate, 0.02; give a lower one."),
    (Plateau(min_lr=0.1), "min_lr: 0.1 is above the learning rate, 0.02; give a lower one."),
    (Polynomial(lr_end=BASE), "lr_end: 0.02 is not below the learning rate, 0.02; give a lower one."),
    (
        WarmupStableDecay(warmup_steps=20, num_decay_steps=18),
        "num_decay_steps: 18 after 20 steps of warm-up are more than the 37 steps there are; give fewer.",
    ),
    (
        WarmupStableDecay(warmup_steps=20, num_decay_steps=8, num_stable_steps=10),
        "num_decay_steps: 8 after 20 steps of warm-up, 10 stable ones are more than the 37 steps there are; "
        "give fewer.",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), MISFITS)
def test_what_does_not_fit_the_run_is_refused(options: Any, sentence: str) -> None:
    assert [*misfits(options, learning_rate=BASE, max_steps=37)] == [sentence]
    assert [*misfits(options)] == [], "nothing is known yet"
    name = next(name for name in CATALOG if options_of(CATALOG, name, "") is type(options))
    with pytest.raises(ConfigError) as raised:
        thing_of(CATALOG, name, "")(options, an_optimizer(), 37)
    assert raised.value.problems == (f"schedule.{sentence}",)


# -- evaluations -----------------------------------------------------------------------------------


METRICS = [3.0, 2.0, 2.5, 2.5, 1.99, 2.2, 2.2, 2.2, 2.2, float("nan"), 2.2, 1.0, 1.0, 1.0, 1.0]
OPTIONS: dict[str, Any] = {
    "factor": 0.5,
    "patience": 1,
    "threshold": 0.02,
    "cooldown": 1,
    "min_lr": 0.002,
    "eps": 1e-6,
}


def noted(rates: Any, metrics: list[float]) -> list[list[float]]:
    found = []
    for step, metric in enumerate(metrics):
        rates.set(step)
        rates.note(metric)
        found.append(rates.get_last_lr())
    return found


@pytest.mark.parametrize(
    "given", [OPTIONS, {**OPTIONS, "threshold_mode": "abs"}, {**OPTIONS, "mode": "max"}, {}]
)
def test_a_plateau_equals_torch(given: dict[str, Any]) -> None:
    scheduler = transformers.get_scheduler(
        "reduce_lr_on_plateau", an_optimizer(), scheduler_specific_kwargs=given
    )
    expected = []
    for metric in METRICS:
        scheduler.step(metric)
        expected.append(scheduler.get_last_lr())
    assert noted(built("reduce_lr_on_plateau", an_optimizer(), 9, **given), METRICS) == expected
    assert (len({rates[0] for rates in expected}) > 1) == bool(given), "falls, but for the default patience"


@pytest.mark.parametrize("cut", range(len(METRICS) + 1))
def test_a_plateau_goes_on_exactly(cut: int) -> None:
    whole = noted(built("reduce_lr_on_plateau", an_optimizer(), 9, **OPTIONS), METRICS)
    broken = built("reduce_lr_on_plateau", an_optimizer(), 9, **OPTIONS)
    noted(broken, METRICS[:cut])
    state = json.loads(json.dumps(broken.state_dict(), allow_nan=False))
    optimizer = an_optimizer()
    resumed = built("reduce_lr_on_plateau", optimizer, 9, **OPTIONS)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in optimizer.param_groups] == broken.get_last_lr()
    assert resumed.scheduler.state_dict() == broken.scheduler.state_dict()
    assert noted(resumed, METRICS[cut:]) == whole[cut:]


# -- functions for programs ------------------------------------------------------------------------


NAMES = [function.__name__ for function in functions.FUNCTIONS.values()]


@pytest.mark.parametrize("name", [*NAMES, "get_scheduler"])
def test_signatures_are_the_reference_s(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(module, name)) for module in (functions, oracle))
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.default, p.kind) for p in theirs.parameters.values()
    ]


def test_every_name_has_a_function() -> None:
    assert {*SchedulerType} == {*CATALOG} == {*functions.FUNCTIONS}
    assert len(NAMES) == 11
    assert {word.name: word.value for word in transformers.SchedulerType if word != "greedy"} == {
        word.name: word.value for word in SchedulerType
    }
    schedule = functions.get_scheduler(SchedulerType.COSINE, an_optimizer(), 3, 9)
    assert isinstance(schedule, LambdaLR)
    assert isinstance(functions.get_scheduler("reduce_lr_on_plateau", an_optimizer()), ReduceLROnPlateau)


def test_a_scheduler_goes_on_from_its_last_step() -> None:
    whole = functions.get_linear_schedule_with_warmup(an_optimizer(), 3, 9)
    expected = stepped(whole, 9)
    optimizer = an_optimizer()
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it steps before the optimizer does
        again = functions.get_linear_schedule_with_warmup(optimizer, 3, 9, last_epoch=3)
    assert stepped(again, 5) == expected[4:]


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda o: functions.get_scheduler("cosin", o),
            ConfigError,
            "SchedulerType: 'cosin' is none of its values; did you mean 'cosine'?",
        ),
        (
            lambda o: functions.get_scheduler("linear", o, 3),
            ValueError,
            "num_training_steps: linear needs it and none was given.",
        ),
        (
            lambda o: functions.get_wsd_schedule(o, 3, 3),
            ValueError,
            "num_training_steps: it or num_stable_steps is required and none was given.",
        ),
        (
            lambda o: functions.get_wsd_schedule(o, 3, 3, 5),
            ValueError,
            "num_decay_steps: 3 after 3 steps of warm-up are more than the 5 steps there are; give fewer.",
        ),
        (
            lambda o: functions.get_wsd_schedule(o, 3, 3, 9, decay_type="cosin"),
            ValueError,
            "decay_type: there is no 'cosin'; did you mean 'cosine'?",
        ),
        (
            lambda o: functions.get_polynomial_decay_schedule_with_warmup(o, 3, 9, lr_end=1.0),
            ValueError,
            "lr_end: 1.0 is not below the learning rate, 0.02; give a lower one.",
        ),
        (
            lambda o: functions.get_cosine_with_min_lr_schedule_with_warmup(o, 3, 9),
            ValueError,
            "min_lr: it or min_lr_rate is required and none was given.",
        ),
        (
            lambda o: functions.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
                o, 3, 9, min_lr=0.0, min_lr_rate=0.0
            ),
            ValueError,
            "min_lr_rate: min_lr is given too; leave one of them out.",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    call: Any, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        call(an_optimizer())
    assert str(raised.value) == sentence


def test_the_kinds_of_rates() -> None:
    for name in CATALOG:
        options = SETTINGS.get(name, [{}])[0]
        rates = built(name, an_optimizer(), 37, **options)
        assert isinstance(rates, PlateauRates if name == "reduce_lr_on_plateau" else FactorRates)
        rates.note(1.0)
        assert json.loads(json.dumps(rates.state_dict())) == rates.state_dict()


# -- in a training -----------------------------------------------------------------------------------

FALLING = {"patience": 0, "threshold": 0.5, "factor": 0.5}  # a better loss is hardly ever better by half


def rates_and_metrics(trainer: Trainer) -> tuple[list[float], list[float]]:
    history = trainer.state.log_history
    return (
        [line["learning_rate"] for line in history if "learning_rate" in line],
        [line["eval_loss"] for line in history if "eval_loss" in line],
    )


@pytest.mark.parametrize("brought", [False, True])
def test_a_plateau_follows_the_evaluations_of_a_program(tmp_path: Path, brought: bool) -> None:
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    named = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": FALLING, "optim": "sgd"}
    trainer = Trainer(
        model,
        arguments(
            tmp_path,
            max_steps=5,
            eval_strategy="steps",
            eval_steps=1,
            eval_on_start=True,
            **({} if brought else named),
        ),
        train_dataset=points(),
        eval_dataset=points(5, seed=1),
        optimizers=(optimizer, ReduceLROnPlateau(optimizer, **FALLING)) if brought else (None, None),
    )
    trainer.train()
    seen, (_, *metrics) = rates_and_metrics(trainer)
    oracle_optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = ReduceLROnPlateau(oracle_optimizer, **FALLING)
    expected = []
    for metric in metrics:
        expected.append(scheduler.get_last_lr()[0])
        scheduler.step(metric)
    assert seen == expected, "the evaluation at the start is not counted"
    assert seen[-1] < seen[0]


def test_a_program_gets_a_plateau_of_torch_s_before_it_trains(tmp_path: Path) -> None:
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
    trainer = Trainer(Classifier(), arguments(tmp_path, **options), eval_dataset=points(5))
    trainer.create_optimizer_and_scheduler(num_training_steps=9)
    assert isinstance(trainer.lr_scheduler, ReduceLROnPlateau)
    assert trainer.lr_scheduler.optimizer is trainer.optimizer


def test_what_does_not_fit_is_said_before_anything_is_built(
    train: Callable[..., Any], tiny: Sequence[str]
) -> None:
    done = train(*tiny, "schedule=warmup_stable_decay", "schedule.num_decay_steps=9", "check=true")
    assert done.status == 2
    assert str(done.error) == (
        "schedule.num_decay_steps: 9 after 1 steps of warm-up are more than the 2 steps there are; give "
        "fewer."
    )


def test_a_plateau_resumes(resumes: Callable[..., Any]) -> None:
    options = [f"schedule.{name}={value}" for name, value in FALLING.items()]
    resumed = resumes(
        "training.max_steps=6",
        "checkpoint.save_steps=3",
        "evaluation.eval_steps=1",
        "logging.logging_steps=1",
        "schedule=reduce_lr_on_plateau",
        *options,
    )
    lines = [json.loads(line) for line in (resumed.folder / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert len(rates) == 6
    assert rates[5] < rates[3] < rates[0], "it falls before and after the stop"
