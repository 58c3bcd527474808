"""Experts are balanced by how many tokens of a whole step each one got, however the step is split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conf.errors import ConfigError
from models import build_model
from models.afmoe import AfmoeConfig
from tests.trainer.saved_runs import lines
from trainer.data.loading import SilentBatch
from trainer.expert_balance import balance, measures
from trainer.objectives.causal_lm import CausalLM
from trainer.objectives.options import CausalLMOptions

EXPERTS = (
    "model=afmoe",
    "training.max_steps=5",  # an odd number, so that no bias that moved is where it began
    "logging.logging_steps=1",
    "evaluation.eval_steps=5",
    "data.packing=false",
    "objective.expert_bias_update_rate=0.01",
)
SPREAD = ("expert_load_max", "expert_load_min", "experts_unused")


def model(**fields: Any) -> Any:
    """A tiny model whose routers prefer some experts by far."""
    made = build_model(AfmoeConfig.preset("tiny", **fields), "causal_lm", seed=0).train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in made.backbone.layers:
            if layer.sparse:
                weight = layer.mlp.router.gate.weight
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
                layer.mlp.expert_bias[0] = 0.2
    return made


def batch() -> dict[str, Tensor]:
    ids = torch.randint(4, 512, (4, 100), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_a_bias_moves_towards_the_mean_load() -> None:
    moved = model(num_hidden_layers=2)
    mixture = moved.backbone.layers[1].mlp
    mixture.expert_bias.zero_()
    load = torch.tensor([[5.0, 1.0, 3.0, 3.0]], dtype=torch.float64)
    balance(moved, load, 0.25)
    assert mixture.expert_bias.tolist() == [-0.25, 0.25, 0, 0]
    mixture.router.requires_grad_(False)
    balance(moved, load, 0.25)
    assert mixture.expert_bias.tolist() == [-0.25, 0.25, 0, 0], "a frozen router chooses as before"
    assert measures(load) == {"expert_load_max": 5 / 3, "expert_load_min": 1 / 3, "experts_unused": 0}
    two = torch.tensor([[4.0, 4.0, 4.0, 4.0], [16.0, 0.0, 0.0, 0.0]])
    assert measures(two) == {"expert_load_max": 4, "expert_load_min": 0, "experts_unused": 3 / 8}


def test_a_skewed_model_becomes_balanced_and_without_a_rate_does_not() -> None:
    spread = {}
    for rate in (0.0, 0.01):
        skewed, objective = model(), CausalLM(CausalLMOptions(expert_bias_update_rate=rate))
        told = []
        for _ in range(60):
            load = objective(skewed, batch()).metrics["expert_load"].double()
            told.append(objective.after_update(skewed, {"expert_load": load}))
        spread[rate] = (told[0], told[-1])
    assert spread[0.0][0] == spread[0.0][1] == spread[0.01][0]
    before, after = spread[0.01]
    assert before["expert_load_max"] > 1.9
    assert before["expert_load_min"] < 0.7
    assert after["expert_load_max"] < 1.2
    assert after["expert_load_min"] > 0.8


def test_what_only_keeps_others_company_and_what_is_evaluated_counts_nothing() -> None:
    objective, some = CausalLM(CausalLMOptions()), model()
    assert objective(some, batch()).metrics["expert_load"].sum() == 2 * 400 * 2
    assert objective(some, SilentBatch(batch())).metrics["expert_load"].tolist() == [[0] * 4] * 2
    assert objective.predict(some.eval(), batch(), loss_only=True).terms.keys() == {"loss"}
    assert objective(some, batch()).metrics == {}
    assert objective.after_update(some, {}) == {}


@pytest.fixture
def trained(train: Any, tiny: tuple[str, ...], tmp_path: Path) -> Callable[..., tuple[Any, Any]]:
    """``trained(name, *words)``: the biases that a training ends with, and what it said of the load."""

    def run(name: str, *words: str) -> tuple[Any, Any]:
        done = train(*tiny, *EXPERTS, *words, "checkpoint.save_strategy=no", f"output_dir={name}")
        assert done.status == 0, done.error
        weights = load_file(tmp_path / name / "model.safetensors")
        biases = {key: value.tolist() for key, value in weights.items() if key.endswith("expert_bias")}
        told = [[line[key] for key in SPREAD] for line in lines(tmp_path / name) if "loss" in line]
        return biases, told

    return run


def test_the_load_is_of_the_whole_step(trained: Callable[..., tuple[Any, Any]]) -> None:
    size, parts = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    whole = trained("whole", f"{size}=8", f"{parts}=1")
    biases, told = whole
    assert len(biases) == 2
    assert all(any(bias) for bias in biases.values())
    assert len(told) == 5
    assert trained("split", f"{size}=1", f"{parts}=8") == whole
    assert trained("recomputed", f"{size}=8", f"{parts}=1", "training.gradient_checkpointing=true") == whole
    averaged = trained("averaged", f"{size}=8", f"{parts}=1", "averaging=ema")
    assert averaged == whole, "an average of the weights leaves the biases as they are"


def test_balanced_experts_resume_bit_for_bit(resumes: Callable[..., Any]) -> None:
    steps = ("training.max_steps=6", "evaluation.eval_steps=3", "checkpoint.save_steps=3")
    resumes(*EXPERTS, *steps, "logging.logging_steps=2", "training.gradient_accumulation_steps=2")


def test_a_rate_is_refused_where_it_does_nothing(train: Any, tiny: tuple[str, ...]) -> None:
    refused = train(*tiny, "objective.expert_bias_update_rate=0.01")
    assert refused.status == 2
    assert str(refused.error) == (
        "objective.expert_bias_update_rate: this llama has no experts; leave it out."
    )
    with pytest.raises(ConfigError, match="this afmoe has no experts"):
        CausalLM(CausalLMOptions(expert_bias_update_rate=0.0)).suits(model(num_dense_layers=3))
    refused = train(*tiny, "model=afmoe", "objective.expert_bias_update_rate=-1")
    assert "expert_bias_update_rate: must be a number from 0, got -1" in str(refused.error)
