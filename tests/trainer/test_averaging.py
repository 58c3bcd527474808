"""An average of the weights is what is evaluated, saved and ended with; the training itself never sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from conf.errors import ConfigError
from tests.trainer.saved_runs import assert_same_checkpoint, digest, lines
from trainer.averaging.ema import ExponentialMovingAverage
from trainer.averaging.options import EMA
from trainer.evaluator import Evaluator

SIX_STEPS = (
    "training.max_steps=6",
    "logging.logging_steps=2",
    "evaluation.eval_steps=3",
    "checkpoint.save_steps=3",
    "checkpoint.save_total_limit=null",
    "callbacks.progress=null",
)
AVERAGED = (*SIX_STEPS, "averaging=ema", "averaging.decay=0.9")


def trained(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
    """SGD over a model's parameters, as the run's optimizers list them."""
    model.to(dtype)
    named = dict(model.named_parameters())
    return torch.optim.SGD([{"params": [*named.values()], "param_names": [*named]}], lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    parameter = next(model.parameters())
    model(torch.randn(5, 4).to(parameter.dtype)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_average_is_torchs() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = trained(model)
    ours = ExponentialMovingAverage(EMA(decay=0.8, warmup=False), optimizer)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    theirs.update_parameters(model)  # its first update copies
    for updates in range(1, 8):
        step(model, optimizer, updates)
        ours.update(updates)
        theirs.update_parameters(model)
    for mine, wanted in zip(ours.average, theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_short_training_is_not_held_back_by_its_beginning() -> None:
    average = ExponentialMovingAverage(EMA(decay=0.999), trained(nn.Linear(4, 3)))
    assert [average.decay(n) for n in (1, 2, 10)] == [2 / 11, 3 / 12, 11 / 20]
    assert average.decay(100_000) == 0.999


def test_it_may_be_taken_every_few_updates() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = trained(model)
    average = ExponentialMovingAverage(EMA(update_every=2), optimizer)
    began = [value.clone() for value in average.average]
    step(model, optimizer, 1)
    average.update(1)
    assert all(map(torch.equal, average.average, began))
    average.update(2)
    assert not any(map(torch.equal, average.average, began))


def test_weights_come_back_to_the_last_bit_even_after_an_error() -> None:
    model = nn.Linear(4, 3)
    optimizer = trained(model)
    average = ExponentialMovingAverage(EMA(), optimizer)
    step(model, optimizer, 1)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def fail() -> None:
        with average.applied():
            assert all(map(torch.equal, model.parameters(), average.average))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(map(torch.equal, model.parameters(), before))


def test_an_average_of_bf16_weights_keeps_what_they_cannot_hold() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = trained(model, torch.bfloat16)
    average = ExponentialMovingAverage(EMA(decay=0.999, warmup=False), optimizer)
    for updates in range(1, 4):
        step(model, optimizer, updates)
        average.update(updates)
    assert all(value.dtype is torch.float32 for value in average.average)
    saved = {name: value.clone() for name, value in average.tensors().items()}
    with average.applied():
        rounded = nn.Linear(4, 3).to(torch.bfloat16)
        rounded.load_state_dict(model.state_dict())
    restored = ExponentialMovingAverage(EMA(), trained(rounded, torch.bfloat16))
    restored.load_tensors(saved)
    assert all(map(torch.equal, restored.average, average.average))
    assert all(map(torch.equal, rounded.parameters(), model.parameters()))


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": 0.0}, {"update_every": 0}])
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: .* is wanted, .* was given"):
        EMA(**wrong)


# -- in a run ---------------------------------------------------------------------------------------------


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The first weight of the model at each evaluation."""
    seen: list[torch.Tensor] = []
    original = Evaluator.__call__

    def look(self: Evaluator, model: nn.Module, *rest: Any) -> Any:
        seen.append(next(model.parameters()).detach().clone())
        return original(self, model, *rest)

    monkeypatch.setattr(Evaluator, "__call__", look)
    return seen


def first(folder: Path, name: str = "") -> torch.Tensor:
    """The tensor of the model's first parameter in a folder, or what a file of its training keeps of it."""
    weights = load_file(folder / "model.safetensors")
    key = "model.embed_tokens.weight"
    return load_file(folder / "training/averaging.safetensors")[f"{key}/{name}"] if name else weights[key]


def test_a_run_evaluates_saves_and_ends_with_the_average(
    train: Any, tiny: Sequence[str], evaluated: list[torch.Tensor]
) -> None:
    plain = train(*tiny, *SIX_STEPS, "output_dir=plain")
    count = len(evaluated)
    done = train(*tiny, *AVERAGED)
    assert done.status == 0, done.error
    at_three, at_six = evaluated[count:]
    assert torch.equal(at_three, first(done.folder / "checkpoint-3"))
    assert torch.equal(at_six, first(done.folder / "checkpoint-6"))
    assert torch.equal(at_six, first(done.folder)), "the final model"
    assert torch.equal(at_six, next(done.run.model.parameters())), "and the one in memory"
    trained_weights = first(done.folder / "checkpoint-6", "weight")
    assert torch.equal(trained_weights, first(plain.folder / "checkpoint-6")), (
        "the training saw nothing of it"
    )
    assert not torch.equal(at_six, trained_weights)
    assert not (plain.folder / "checkpoint-6/training/averaging.safetensors").exists()
    losses = [[line["loss"] for line in lines(run.folder) if "loss" in line] for run in (plain, done)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "words",
    [
        ("averaging=ema",),
        ("averaging=ema", "averaging.update_every=2"),
        ("averaging=ema", "model.dtype=bfloat16"),
        ("averaging=ema", "checkpoint.load_best_model_at_end=true"),
    ],
    ids=lambda words: " ".join(words),
)
def test_it_resumes_bit_for_bit(train: Any, tiny: Sequence[str], words: Sequence[str]) -> None:
    whole = train(*tiny, *SIX_STEPS, *words)
    model, told = digest(whole.folder / "model.safetensors"), lines(whole.folder)
    resumed = train("resume=run/checkpoint-3")
    assert resumed.status == 0, resumed.error
    assert_same_checkpoint(whole.folder / "checkpoint-6", whole.folder / "set-aside-checkpoint-6-1")
    assert digest(whole.folder / "model.safetensors") == model
    assert lines(whole.folder) == told


def test_a_run_without_evaluation_or_checkpoint_ends_with_it_too(train: Any, tiny: Sequence[str]) -> None:
    words = (*tiny, "evaluation=none", "checkpoint=none", "callbacks.progress=null")
    words = tuple(word for word in words if "per_device_eval" not in word)
    plain = train(*words, "output_dir=plain")
    done = train(*words, "averaging=ema")
    assert done.status == 0, done.error
    assert not torch.equal(first(plain.folder), first(done.folder))
    assert torch.equal(first(done.folder), next(done.run.model.parameters()))


def test_a_resumed_run_may_not_take_it_up_or_leave_it(train: Any, tiny: Sequence[str]) -> None:
    train(*tiny, *AVERAGED)
    without = train("resume=run/checkpoint-3", "averaging=none")
    assert isinstance(without.error, ConfigError)
    assert "averaging.name" in str(without.error)


def test_no_average_beside_an_optimizer_that_has_its_own(
    train: Callable[..., Any], tiny: Sequence[str]
) -> None:
    words = ("optimizer=schedule_free_adamw", "schedule=constant", "averaging=ema")
    done = train(*tiny, *words)
    assert str(done.error) == ("averaging: schedule_free_adamw averages the weights itself; leave 'ema' out.")
    decaying = train(*tiny, "optimizer=schedule_free_adamw", "schedule=cosine")
    assert str(decaying.error) == (
        "schedule: schedule_free_adamw takes the place of a schedule, and 'cosine' would slow it down; say "
        "schedule=constant or constant_with_warmup."
    )
