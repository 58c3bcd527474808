"""Which parameters decay, under which names, and that an optimizer is torch's with the given options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from conf.decode import decode
from conf.plugins import thing_of
from models import AutoModelForCausalLM, AutoModelForSequenceClassification
from models.llama.config import LlamaConfig
from models.weights import checkpoint_names
from trainer.build import make_optimizer
from trainer.config import RunConfig
from trainer.optimizers import CATALOG
from trainer.optimizers.groups import parameter_groups
from trainer.optimizers.options import AdamW
from trainer.optimizers.state import split_state

SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
    "mlp_bias": True,
}
DECAYING = AdamW(weight_decay=0.1)
# How much these keep depends on the shapes of the weights.
BOUNDED = {name for name in CATALOG if name.startswith(("galore", "apollo"))} | {"muon"}


@pytest.fixture
def model() -> nn.Module:
    return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), seed=0)


def test_norms_and_biases_do_not_decay_as_in_the_reference(model: nn.Module) -> None:
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.trainer_pt_utils import get_parameter_names

    oracle = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    wanted = {
        name for name in get_parameter_names(oracle, [LlamaRMSNorm, nn.LayerNorm]) if "bias" not in name
    }
    decaying, others = parameter_groups(model, checkpoint_names(model), DECAYING)
    assert set(decaying["param_names"]) == wanted
    assert set(others["param_names"]) == {name for name, _ in oracle.named_parameters()} - wanted
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    for group in (decaying, others):
        assert len(group["params"]) == len(group["param_names"])


def test_frozen_parameters_are_left_out_and_shared_ones_taken_once() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, tie_word_embeddings=True), seed=0)
    names = [
        name
        for group in parameter_groups(model, checkpoint_names(model), DECAYING)
        for name in group["param_names"]
    ]
    assert names.count("model.embed_tokens.weight") == 1
    assert "lm_head.weight" not in names
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    assert parameter_groups(model, checkpoint_names(model), DECAYING) == []
    classifier = AutoModelForSequenceClassification.from_config(LlamaConfig(**SMALL, num_labels=3), seed=0)
    classifier.backbone.requires_grad_(False)
    (group,) = parameter_groups(classifier, checkpoint_names(classifier), DECAYING)
    assert group["param_names"] == ["score.weight"]


def _optimizer(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return make_optimizer(decode(RunConfig, {"optimizer": options}), model)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused"])
def test_adamw_is_torchs_with_the_given_options(model: nn.Module, name: str) -> None:
    options = {
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-6,
    }
    optimizer = _optimizer(model, name=name, **options)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (group["lr"], group["eps"]) == (1e-3, 1e-6)
        assert group["betas"] == (0.8, 0.95)
        assert bool(group["fused"]) == (name == "adamw_torch_fused")


def test_sgd_is_torchs_with_the_given_options(model: nn.Module) -> None:
    optimizer = _optimizer(
        model, name="sgd", learning_rate=1e-2, weight_decay=0.1, momentum=0.9, nesterov=True
    )
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (1e-2, 0.9, True)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def _kept_per_number(name: str, **options: Any) -> tuple[float, float]:
    """How many numbers of fp32 an optimizer keeps for each of a matrix, and what its options say."""
    weight = nn.Parameter(torch.ones(512, 512))
    given = {"name": name, **options}
    if name.startswith(("galore", "apollo")):
        given["optim_target_modules"] = "all-linear"
    section = decode(RunConfig, {"optimizer": given}).optimizer  # type: ignore[arg-type]
    group = {"params": [weight], "param_names": ["weight"], "weight_decay": 0.0, "role": "targeted"}
    optimizer = thing_of(CATALOG, name, "optimizer.name")(section.options, [group])
    (weight * torch.ones_like(weight)).sum().backward()
    optimizer.step()
    tensors, _ = split_state(optimizer)
    return sum(tensor.nbytes for tensor in tensors.values()) / weight.nbytes, section.options.state_tensors


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", CATALOG)
def test_state_tensors_is_what_the_optimizer_keeps(name: str) -> None:
    kept, told = _kept_per_number(name)
    if name in BOUNDED:
        assert kept <= told
    else:
        assert kept == pytest.approx(told, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"momentum": 0.9}),
        ("rmsprop", {"momentum": 0.9}),
        ("rmsprop", {"centered": True}),
        ("adamw_anyprecision", {"momentum_dtype": "bfloat16"}),
        ("adamw_anyprecision", {"use_kahan_summation": True}),
        ("adamw_torch_8bit", {"block_size": 32}),
    ],
)
def test_options_change_what_it_keeps(name: str, options: dict[str, Any]) -> None:
    kept, told = _kept_per_number(name, **options)
    assert kept == pytest.approx(told, abs=0.02)
    assert kept != pytest.approx(_kept_per_number(name)[0], abs=0.02)
