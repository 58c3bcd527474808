"""What is special to Apertus: its activation and its configuration files."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from transformers.activations import XIELUActivation

from conf.errors import ConfigError
from models import build_model
from models.apertus import ApertusConfig
from models.apertus.model import XIELU
from models.weights import checkpoint_names
from trainer.optimizers.groups import parameter_groups
from trainer.optimizers.options import AdamW

PUBLISHED = {  # as the first files were written
    "model_type": "apertus",
    "hidden_act": "xielu",
    "hidden_dropout": 0.0,
    "intermediate_size": 21504,
    "num_key_value_heads": 8,
    "post_norm": False,
    "qk_norm": True,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
        "type": "llama3",
    },
    "rope_theta": 12000000,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_activation_equals_the_reference_to_the_bit(dtype: torch.dtype) -> None:
    drawn = build_model(ApertusConfig.preset("tiny"), None, dtype=dtype, seed=0)
    ours = drawn.get_submodule("backbone.layers.1.mlp.act_fn")
    assert isinstance(ours, XIELU)
    theirs = XIELUActivation(dtype=dtype)
    fresh, expected = ours.state_dict(), theirs.state_dict()
    assert list(fresh) == list(expected)
    for name, value in expected.items():
        assert fresh[name].dtype == dtype
        assert torch.equal(fresh[name], value), name
    with torch.no_grad():
        for activation in (ours, theirs):
            activation.alpha_p.add_(0.3)
            activation.alpha_n.sub_(0.7)
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor([0.0, -0.0, -5e-7, -1e-6, -2e-6, 1e-7, -30, 40])
    x = torch.cat([3 * torch.randn(500, generator=generator), edges]).to(dtype)
    found = []
    for activation in (ours, theirs):
        given = x.clone().requires_grad_()
        out = activation(given)
        (out * x.flip(0)).sum().backward()
        found.append((out, given.grad, activation.alpha_p.grad, activation.alpha_n.grad))
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype == dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "file",
    [
        {},
        PUBLISHED,
        {"rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "max_position_embeddings": 64},
    ],
)
def test_positions_of_a_file_are_those_of_the_reference(file: dict[str, Any]) -> None:
    ours = ApertusConfig.from_dict(file)
    theirs = transformers.ApertusConfig(**file)
    written = {**ours.to_dict()["rope_parameters"], **ours.extra.get("rope_parameters", {})}
    assert written == {key: value for key, value in theirs.rope_parameters.items() if key != "type"}
    again = transformers.ApertusConfig(**ours.to_dict())
    assert again.rope_parameters == written


def test_a_theta_alone_keeps_the_stretched_context() -> None:
    rope = ApertusConfig.from_dict({"rope_theta": 500000.0, "rope_scaling": None}).rope_parameters
    assert rope == dataclasses.replace(ApertusConfig().rope_parameters, rope_theta=500000.0)


@pytest.mark.parametrize(
    ("fields", "dropout"),
    [({}, 0.1), ({"hidden_dropout": 0.2}, 0.2), ({"hidden_dropout": 0.2, "classifier_dropout": 0.3}, 0.3)],
)
def test_dropout_before_the_classifying_head(fields: dict[str, float], dropout: float) -> None:
    config = ApertusConfig.from_dict({**ApertusConfig.preset("tiny").to_dict(), **fields})
    theirs = transformers.ApertusForTokenClassification(transformers.ApertusConfig(**config.to_dict()))
    assert build_model(config, "token_classification", device="meta").head.dropout == dropout
    assert theirs.dropout.p == dropout


@pytest.mark.parametrize(("preset", "billions"), [("apertus-8b", 8.05), ("apertus-70b", 70.6)])
def test_published_shapes_have_their_size(preset: str, billions: float) -> None:
    model = build_model(ApertusConfig.preset(preset), "causal_lm", device="meta")
    assert model.num_parameters() / 1e9 == pytest.approx(billions, rel=1e-3)


def test_weights_decay_but_norms_and_activations_do_not() -> None:
    model = build_model(ApertusConfig.preset("tiny"), "causal_lm", device="meta")
    decayed, kept = parameter_groups(model, checkpoint_names(model), AdamW(weight_decay=0.1))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    layer = "model.layers.0"
    assert {name.removeprefix(f"{layer}.") for name in kept["param_names"] if layer in name} == {
        "attention_layernorm.weight",
        "feedforward_layernorm.weight",
        "mlp.act_fn.alpha_n",
        "mlp.act_fn.alpha_p",
        "self_attn.k_norm.weight",
        "self_attn.q_norm.weight",
    }
    assert not any("norm" in name or "act_fn" in name for name in decayed["param_names"])


def test_an_unknown_activation_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="hidden_act: unknown 'xielo', known are xielu, silu, "):
        ApertusConfig.preset("tiny", hidden_act="xielo")
