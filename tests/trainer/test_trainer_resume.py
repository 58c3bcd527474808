"""A program's training goes on from a checkpoint, begins anew, or is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conf.errors import CheckpointError, ConfigError, StoppedError
from tests.trainer.programs import (
    Classifier,
    SizedStream,
    Stream,
    arguments,
    losses,
    points,
    same,
    trained,
)
from trainer import Trainer, TrainerCallback

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return points()


def scheduled(model: nn.Module) -> tuple[Any, Any]:
    """A program's own optimizer and a schedule of two parts."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = [
        torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=2),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
    ]
    return optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


class OwnLoader(Trainer):
    """Trains on a loader of its own, shuffled by a generator."""

    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_size=2, shuffle=True, generator=torch.Generator(), collate_fn=_stacked
        )


class WrappedLoader(Trainer):
    """Takes the Trainer's own loader and passes it on."""

    def get_train_dataloader(self) -> Any:
        return super().get_train_dataloader()


def _stacked(rows: Rows) -> dict[str, Any]:
    labels = torch.tensor([row["labels"] for row in rows])
    return {"x": torch.stack([row["x"] for row in rows]), "labels": labels}


RESUMED: dict[str, Callable[[], dict[str, Any]]] = {
    "map style": dict,
    "iterable": lambda: {"train_dataset": Stream(points())},
    "sized iterable": lambda: {"train_dataset": SizedStream(points())},
    "own optimizer and schedule": lambda: {"own": scheduled},
    "own loader": lambda: {"type": OwnLoader},
    "wrapped loader": lambda: {"type": WrappedLoader},
    "wrapped loader of a stream": lambda: {"type": WrappedLoader, "train_dataset": Stream(points())},
    "own optimizer class": lambda: {"optimizer_cls_and_kwargs": (torch.optim.Adam, {"lr": 1e-2})},
}


@pytest.mark.parametrize("case", RESUMED)
@pytest.mark.parametrize("how", ["newest", "path"])
def test_a_training_goes_on_bit_for_bit(case: str, how: str, tmp_path: Path) -> None:
    def make(folder: Path, **more: Any) -> Trainer:
        given = {"train_dataset": points(), **RESUMED[case]()}
        model = Classifier(dropout=0.3)
        if "own" in given:
            given["optimizers"] = given.pop("own")(model)
        kind = given.pop("type", Trainer)
        args = arguments(
            folder, max_steps=10, save_strategy="steps", save_steps=4, lr_scheduler_type="cosine"
        )
        return kind(model=model, args=args, **given, **more)

    whole = make(tmp_path / "whole")
    whole.train()
    broken = make(tmp_path / "broken", callbacks=[StopAt(9)])
    broken.train()
    assert not same(broken.model, whole.model)
    resumed = make(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=True if how == "newest" else tmp_path / "broken" / "checkpoint-8")  # type: ignore[arg-type]
    assert same(resumed.model, whole.model)
    assert losses(resumed) == losses(whole)
    rates = [
        [line["learning_rate"] for line in t.state.log_history if "loss" in line] for t in (resumed, whole)
    ]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 5


class StopAt(TrainerCallback):
    """Stops the training at a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_an_epochs_order_is_its_own_in_a_wrapped_loader_too(tmp_path: Path) -> None:
    """What an override passes on is trained on in the same order as without it."""
    outcomes = []
    for kind in (Trainer, WrappedLoader):
        trainer = kind(
            model=Classifier(),
            args=arguments(tmp_path / kind.__name__, num_train_epochs=3),
            train_dataset=points(),
        )
        trainer.train()
        outcomes.append(losses(trainer))
    assert outcomes[0] == outcomes[1]


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, rows: Rows) -> None:
    def make() -> Trainer:
        return Trainer(model=Classifier(), args=arguments(tmp_path / "run"), train_dataset=rows)

    with pytest.raises(
        CheckpointError, match=r"^resume_from_checkpoint: .*run has no checkpoint; leave it out"
    ):
        make().train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match=r"^resume_from_checkpoint: there is no folder '.*nowhere'; give a"):
        make().train(resume_from_checkpoint=str(tmp_path / "nowhere"))
    make().train(resume_from_checkpoint=False)
    with pytest.raises(
        ConfigError, match=r"^output_dir: .* holds a run already; add resume_from_checkpoint=True to go on"
    ):
        make().train()
    nameless = Trainer(model=Classifier(), args=arguments(""), train_dataset=rows)
    nameless.args.output_dir = None
    with pytest.raises(
        ConfigError, match=r"^resume_from_checkpoint: 'auto' needs the run's folder; give output_dir"
    ):
        nameless.train(resume_from_checkpoint=True)


def test_another_batch_size_or_seed_is_no_resume(tmp_path: Path, rows: Rows) -> None:
    trained(tmp_path / "run", rows=rows, save_strategy="steps")
    args = arguments(
        tmp_path / "run", save_strategy="steps", seed=1, per_device_train_batch_size=3, max_steps=6
    )
    with pytest.raises(ConfigError) as raised:
        Trainer(model=Classifier(), args=args, train_dataset=rows).train(resume_from_checkpoint=True)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["seed", "training"]


def test_a_second_training_begins_anew_with_model_init(tmp_path: Path, rows: Rows) -> None:
    trainer = Trainer(
        model_init=_Linear,
        args=arguments(tmp_path / "first", seed=3, save_strategy="steps"),
        train_dataset=rows,
    )
    trainer.train()
    first, before, optimizer = trainer.model, losses(trainer), trainer.optimizer
    trainer.args.output_dir = str(tmp_path / "second")
    trainer.train()
    assert trainer.model is not first
    assert same(trainer.model, first)
    assert losses(trainer) == before
    assert trainer.optimizer is not optimizer
    assert (tmp_path / "second" / "checkpoint-4").is_dir()


class _Linear(nn.Module):
    """Drawn from the global generator, which the Trainer seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor]:
        return (nn.functional.cross_entropy(self.scores(x), labels),)


def test_a_second_training_of_one_model_goes_on_with_its_weights(tmp_path: Path, rows: Rows) -> None:
    trainer = Trainer(model=Classifier(), args=arguments(tmp_path / "first"), train_dataset=rows)
    trainer.train()
    before, optimizer = losses(trainer), trainer.optimizer
    trainer.args.output_dir = str(tmp_path / "second")
    trainer.train()
    assert sum(losses(trainer)) < sum(before)
    assert trainer.optimizer is not optimizer
    assert trainer.get_learning_rates() == [1e-2 * 1 / 4]


def test_a_signal_saves_and_raises(tmp_path: Path, rows: Rows) -> None:
    class Signal(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = Trainer(
        model=Classifier(),
        args=arguments(tmp_path, save_strategy="steps"),
        train_dataset=rows,
        callbacks=[Signal],
    )
    with pytest.raises(StoppedError, match=r"^stopped by a signal at step 3, saved in .*checkpoint-3"):
        trainer.train()
    assert not trainer.is_in_train
    assert trainer.train(resume_from_checkpoint=True).global_step == 4
