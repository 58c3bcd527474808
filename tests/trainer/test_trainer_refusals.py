"""What of a program does not fit together is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from conf.errors import ConfigError
from tests.trainer.programs import (
    Classifier,
    arguments,
    points,
    trained,
)
from trainer import Trainer

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return points()


def _nothing(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("it is refused before it is called")


PLATEAU = torch.optim.lr_scheduler.ReduceLROnPlateau
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no model": ({"model": None}, {}, "model: give it or model_init, and not both."),
    "two models": ({"model_init": _nothing}, {}, "model: give it or model_init, and not both."),
    "no module": ({"model": "bert"}, {}, "model: a torch.nn.Module is wanted, a str was given."),
    "model_init of two": (
        {"model": None, "model_init": lambda a, b: None},
        {},
        "model_init: it takes no argument, or one, the trial.",
    ),
    "model_init of nothing": (
        {"model": None, "model_init": lambda: None},
        {},
        "model_init: it returned None; let it return the model.",
    ),
    "optimizer of another model": (
        {
            "model": None,
            "model_init": Classifier,
            "optimizers": (torch.optim.SGD(Classifier().parameters()), None),
        },
        {},
        "optimizers: they are of another model than model_init makes; leave one of them out.",
    ),
    "two optimizers": (
        {
            "optimizers": (torch.optim.SGD(Classifier().parameters()), None),
            "optimizer_cls_and_kwargs": (torch.optim.SGD, {}),
        },
        {},
        "optimizer_cls_and_kwargs: given together with optimizers; leave one of them out.",
    ),
    "plateau": (
        {"optimizers": (None, PLATEAU(torch.optim.SGD(Classifier().parameters())))},
        {},
        "optimizers: a ReduceLROnPlateau follows evaluations, and there are none; set eval_strategy.",
    ),
    "no function": (
        {"compute_metrics": 3},
        {},
        "compute_metrics: a function is wanted, a int was given.",
    ),
    "nothing to evaluate": (
        {},
        {"eval_strategy": "steps"},
        "eval_strategy: it needs an eval_dataset; give one, or 'no'.",
    ),
    "nothing to include for": (
        {},
        {"include_for_metrics": ["loss"]},
        "include_for_metrics: it is about compute_metrics, and there is none; leave it out.",
    ),
    "no metrics of batches": (
        {},
        {"batch_eval_metrics": True},
        "batch_eval_metrics: it is about compute_metrics, and there is none; leave it out.",
    ),
    "metrics that are never computed": (
        {"compute_metrics": _nothing},
        {"prediction_loss_only": True},
        "prediction_loss_only: compute_metrics would not be called; leave one of them out.",
    ),
    "metrics of batches": (
        {"compute_metrics": lambda seen: {}},
        {"batch_eval_metrics": True},
        "compute_metrics: batch_eval_metrics calls it with compute_result, which it does not take; add "
        "that argument.",
    ),
    "two losses": (
        {"compute_loss_func": _nothing},
        {"label_smoothing_factor": 0.1},
        "label_smoothing_factor: compute_loss_func makes the whole loss; leave one of them out.",
    ),
    "tf32": ({}, {"tf32": True}, "tf32: True has no effect on a cpu device; leave it out."),
    "best": (
        {"eval_dataset": points(2)},
        {"load_best_model_at_end": True, "eval_strategy": "epoch"},
        "load_best_model_at_end: every evaluated step must be saved; set save_strategy: epoch, or best.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_together_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    objects, given, sentence = WRONG[case]
    with pytest.raises(ConfigError) as raised:
        Trainer(**{"model": Classifier(), **objects}, args=arguments(tmp_path, **given))
    assert raised.value.problems == (sentence,)
    assert str(raised.value) == sentence


def test_what_a_training_cannot_use_is_refused(tmp_path: Path, rows: Rows) -> None:
    multi = Classifier()
    multi.config = SimpleNamespace(problem_type="multi_label_classification")  # type: ignore[assignment]
    with pytest.raises(
        ConfigError, match=r"^label_smoothing_factor: it spreads one right class over the others"
    ):
        Trainer(model=multi, args=arguments(tmp_path, label_smoothing_factor=0.1))
    frozen = Classifier().requires_grad_(False)
    with pytest.raises(ConfigError, match=r"^model: none of its parameters requires a gradient"):
        trained(tmp_path / "frozen", frozen)
    other = torch.optim.SGD(Classifier().parameters(), lr=0.1)
    with pytest.raises(
        ConfigError, match=r"^optimizers: the optimizer holds a parameter that is not the model's"
    ):
        trained(tmp_path / "other", optimizers=(other, None))

    class NoLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.linear(x)}

    with pytest.raises(
        ConfigError, match=r"^model: it returned no loss, only scores, for the inputs x; give it"
    ):
        trained(tmp_path / "no-loss", NoLoss(), [{"x": row["x"]} for row in rows])

    class Unlabelled(NoLoss):
        def forward(self, x: torch.Tensor) -> Any:
            return (self.linear(x).mean(),)

    with pytest.raises(
        ConfigError, match=r"^label_smoothing_factor: 0.1 smooths the column 'labels', and a batch has only x"
    ):
        trained(
            tmp_path / "unlabelled", Unlabelled(), [{"x": r["x"]} for r in rows], label_smoothing_factor=0.1
        )
    with pytest.raises(
        ConfigError, match=r"^gradient_checkpointing: Classifier has no gradient_checkpointing_en"
    ):
        trained(tmp_path / "checkpointing", gradient_checkpointing=True)
    with pytest.raises(
        ConfigError, match=r"^neftune_noise_alpha: noise goes on the embeddings, and Classifier"
    ):
        trained(tmp_path / "noise", neftune_noise_alpha=5.0)
    foreign = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ConfigError, match=r"^args: this library's TrainingArguments .*, a transformers"):
        Trainer(model=Classifier(), args=foreign)  # type: ignore[arg-type]

    class Unheard(Trainer):
        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("it is refused before it is called")

    with pytest.raises(ConfigError, match=r"^get_batch_samples: the loop goes by get_train_dataloader and"):
        Unheard(model=Classifier(), args=arguments(tmp_path))
    with pytest.raises(ConfigError, match=r"^deepspeed: it is not supported yet; leave it out"):
        Trainer(model=Classifier(), args=arguments(tmp_path)).propagate_args_to_deepspeed()


def test_options_beside_what_the_program_brings_are_said_to_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("trainer.trainer.logger.warning", said.append)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Trainer(model, arguments(tmp_path, learning_rate=1.0), optimizers=(optimizer, None))
    assert "learning_rate: it has no effect beside the optimizer that the program brings." in said
