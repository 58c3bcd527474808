"""Figures of gradients and activations, against the tensors themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks import StatisticsCallback
from conf.errors import ConfigError
from tests.trainer.small_program import program, tagger, trained, weights
from trainer.state import TrainerCallback


class Recording(TrainerCallback):
    """Keeps each step's gradients, as they are when the optimizer is to step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.gradients.append({name: parameter.grad.clone() for name, parameter in named})


def figures(trainer: Any) -> list[dict[str, float]]:
    """What the training lines have of it."""
    lines = (line for line in trainer.state.log_history if "loss" in line)
    return [{name: line[name] for name in line if "/" in name} for line in lines]


def test_gradients_are_those_that_the_optimizer_gets(tmp_path: Path) -> None:
    seen = Recording()
    callback = StatisticsCallback(parameters=(".*", "scores.*"), every=1)
    trainer = trained(tmp_path, max_grad_norm=0.01, parts={"callbacks": [callback, seen]})
    for line, gradients in zip(figures(trainer), seen.gradients, strict=True):
        for pattern, names in ((".*", [*gradients]), ("scores.*", ["scores.weight", "scores.bias"])):
            together = torch.cat([gradients[name].flatten() for name in names])
            assert line[f"grad_norm/{pattern}"] == pytest.approx(float(together.norm()), rel=1e-6)
            assert line[f"grad_max/{pattern}"] == float(together.abs().max())
            assert line[f"grad_zeros/{pattern}"] == float((together == 0).double().mean())
        assert line["grad_norm/.*"] == pytest.approx(0.01, rel=1e-3), "after clipping"


def test_activations_are_those_of_all_micro_batches_of_the_step(tmp_path: Path) -> None:
    outputs: list[Tensor] = []
    model = tagger(watch=lambda ids, logits: outputs.append(logits.detach().clone()))
    callback = StatisticsCallback(parameters=(), activations=("scores",), every=1)
    trainer = trained(
        tmp_path,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        parts={"callbacks": [callback], "model": model},
    )
    assert len(outputs) == 6
    for number, line in enumerate(figures(trainer)):
        values = torch.cat(outputs[2 * number : 2 * number + 2]).double()
        assert line["activation_mean/scores"] == pytest.approx(float(values.mean()), rel=1e-5)
        assert line["activation_std/scores"] == pytest.approx(float(values.std(correction=0)), rel=1e-5)
        assert line["activation_max/scores"] == pytest.approx(float(values.abs().max()), rel=1e-6)


def test_every_second_step_is_measured_and_told_in_the_next_line(tmp_path: Path) -> None:
    hooked: list[int] = []

    class Counting(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            hooked.append(sum(len(module._forward_hooks) for module in kwargs["model"].modules()))

    callback = StatisticsCallback(activations=(".*",), every=2)
    trainer = trained(tmp_path, max_steps=5, logging_steps=3, parts={"callbacks": [callback, Counting()]})
    assert hooked == [0, 2, 0, 2, 0], "other steps cost nothing"
    assert [bool(line) for line in figures(trainer)] == [True, True], "at step 3 of 2, at the end of 4"
    assert torch.equal(weights(trainer), weights(trained(tmp_path, max_steps=5, logging_steps=3)))


def test_what_was_measured_and_not_told_is_saved(train: Any, tiny: Any) -> None:
    words = (
        "training.max_steps=4",
        "checkpoint.save_steps=2",
        "checkpoint.save_total_limit=null",
        "logging.logging_steps=3",
        "callbacks.statistics={every: 2, parameters: ['.*norm\\.weight']}",
        "callbacks.statistics.activations=['backbone\\.layers\\.0']",
    )
    whole = train(*tiny, *words)
    assert whole.status == 0, whole.error
    told = [line for line in whole.metrics if "grad_norm/.*norm\\.weight" in line]
    assert [line["step"] for line in told] == [3, 4]
    resumed = train(*tiny, *words, "output_dir=run", "resume=run/checkpoint-2")
    assert resumed.status == 0, resumed.error
    assert [line for line in resumed.metrics if "grad_norm/.*norm\\.weight" in line] == told
    assert told[0]["activation_std/backbone\\.layers\\.0"] > 0


def test_an_error_in_a_step_leaves_no_hook(tmp_path: Path) -> None:
    class Breaks(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise RuntimeError("in between")

    callback = StatisticsCallback(activations=(".*",), every=1)
    made = program(tmp_path, parts={"callbacks": [callback, Breaks()]})
    with pytest.raises(RuntimeError, match="in between"):
        made.train()
    assert not any(module._forward_hooks for module in made.model.modules())


class Unused(nn.Module):
    """A model with a module and a parameter that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.unused = tagger(), nn.Linear(1, 1)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        return self.inner(input_ids, labels)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"parameters": ("heads.*",)},
            "callbacks.statistics.parameters: 'heads.*' matches no whole name of a trained parameter; there "
            "are 5, as 'inner.words.weight'.",
        ),
        (
            {"activations": ("heads.*",)},
            "callbacks.statistics.activations: 'heads.*' matches no whole name of a module; there are 4, as "
            "'inner'.",
        ),
        (
            {"parameters": ("unused.*",)},
            "callbacks.statistics.parameters: nothing that fits 'unused.*' has a gradient when the optimizer "
            "is to step: choose others; an optimizer that updates in the backward pass leaves none.",
        ),
        (
            {"activations": ("unused",)},
            "callbacks.statistics.activations: the modules that fit 'unused' were not called or returned no "
            "tensor; choose others.",
        ),
    ],
)
def test_what_there_is_nothing_of_is_an_error(options: Any, sentence: str, tmp_path: Path) -> None:
    parts = {"callbacks": [StatisticsCallback(every=1, **options)], "model": Unused()}
    with pytest.raises(ConfigError) as error:
        program(tmp_path, parts=parts).train()
    assert str(error.value) == sentence


def test_a_compiled_models_modules_are_not_listened_to(tmp_path: Path) -> None:
    parts = {"callbacks": [StatisticsCallback(activations=(".*",))]}
    with pytest.raises(ConfigError, match=r"^callbacks\.statistics\.activations: a compiled model"):
        program(tmp_path, parts=parts, torch_compile=True).train()


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match=r"^every: at least 1 step is wanted, 0 was given\.$"):
        StatisticsCallback(every=0)
