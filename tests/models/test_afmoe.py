"""What is special to AFMoE: windows beside full layers, experts, what stays in fp32, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from conf.errors import ConfigError
from models import DynamicCache, TaskModel, build_model
from models.afmoe import AfmoeConfig, AfmoeForCausalLM
from models.layers.experts import EXPERTS
from models.weights import named_checkpoint_tensors
from tests.models.families.afmoe import CASE
from tests.models.families.family import labelled, padded
from tests.models.oracle import assert_gradients_agree, close

# What the file of a published model holds that neither the reference nor this library reads.
FOR_OTHER_CODE = {
    "score_func": "sigmoid",
    "route_norm": True,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_groups": 1,
    "num_limited_groups": 1,
    "load_balance_coeff": 0.001,
    "use_grouped_mm": True,
}


@pytest.mark.parametrize("implementation", EXPERTS)
def test_every_implementation_of_the_experts_equals_the_oracle(implementation: str) -> None:
    model = CASE.ours("causal_lm").train()
    model.backbone.set_experts_implementation(implementation)
    oracle = CASE.theirs("causal_lm", model).train()
    oracle.set_experts_implementation(implementation)
    batch = labelled("causal_lm", model, padded("right"))
    found, expected = model(batch), oracle(**batch)
    assert close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    assert_gradients_agree(model, oracle)


def test_the_implementation_of_the_experts_is_an_option_of_the_model() -> None:
    config = AfmoeConfig.preset("tiny")
    model = build_model(config, "causal_lm", device="meta", experts_implementation="batched_mm")
    sparse = [layer.mlp.experts for layer in model.backbone.layers if layer.sparse]
    assert [experts.implementation for experts in sparse] == ["batched_mm"] * 2
    with pytest.raises(ConfigError, match="experts_implementation: there is no 'triton'"):
        build_model(config, "causal_lm", device="meta", experts_implementation="triton")


@pytest.mark.parametrize(("task", "recompute"), [(None, False), (None, True), ("causal_lm", False)])
def test_router_logits_equal_the_oracle(task: str | None, recompute: bool) -> None:
    model = CASE.ours(task, {"output_router_logits": True}).train(recompute)
    oracle = CASE.theirs(task, model)
    if recompute:
        model.gradient_checkpointing_enable()
    batch = padded("left")
    found = model(batch).router_logits
    expected = oracle(**batch).router_logits
    real = batch["attention_mask"].flatten().bool()
    assert len(found) == len(expected) == 3
    for a, b in zip(found, expected, strict=True):
        assert close(a[real], b[real])
    assert model(batch, output_router_logits=False).router_logits is None


def test_layers_with_a_window_keep_no_more_than_later_tokens_see() -> None:
    model = CASE.ours("causal_lm")
    ids = padded("right")["input_ids"][1:2]
    windowed = model(ids[:, :15], use_cache=True).past_key_values
    assert [keys.shape[2] for keys in windowed.keys] == [5, 15, 5, 15]
    assert windowed.get_seq_length() == 15
    whole = model(ids[:, :15], past_key_values=DynamicCache()).past_key_values
    assert [keys.shape[2] for keys in whole.keys] == [15] * 4
    expected = model(ids, use_cache=False).logits[:, 15:]
    for cache in (windowed, whole):
        assert close(model(ids[:, 15:], past_key_values=cache).logits, expected)


def test_only_layers_with_a_window_know_positions() -> None:
    ids = padded("right")["input_ids"][1:2]
    far = 3 + 2 * torch.arange(ids.shape[1])[None]
    moved = {}
    for kind in ("full_attention", "sliding_attention"):
        model = CASE.ours(None, {"layer_types": [kind] * 4})
        moved[kind] = not close(model(ids, position_ids=far)[0], model(ids)[0])
    assert moved == {"full_attention": False, "sliding_attention": True}


def test_norms_and_biases_stay_in_fp32() -> None:
    model = build_model(AfmoeConfig.preset("tiny"), "causal_lm", dtype="bfloat16", seed=0)
    stored = model.state_dict()
    wide = {name for name, tensor in stored.items() if tensor.dtype is torch.float32}
    assert wide == {name for name in stored if "norm" in name or "expert_bias" in name}
    assert len(wide) == 3 * 6 + 1 + 2
    assert model(torch.arange(12)[None]).logits.dtype is torch.bfloat16


def trained(model: TaskModel, batch: dict[str, Any]) -> torch.Tensor:
    """The load of a forward and backward pass."""
    model(batch).loss.backward()
    return model.backbone.expert_load


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_load_counts_each_real_token_once(side: str) -> None:
    model = CASE.ours("causal_lm").train()
    batch = labelled("causal_lm", model, padded(side))
    load = trained(model, batch)
    assert load.shape == (3, 6)
    assert load.sum(dim=1).tolist() == [2 * int(batch["attention_mask"].sum())] * 3
    alone = torch.stack(
        [
            trained(model, {name: value[i : i + 1][:, mask.bool()] for name, value in batch.items()})
            for i, mask in enumerate(batch["attention_mask"])
        ]
    )
    assert torch.equal(alone.sum(dim=0), load)
    for use_reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        assert torch.equal(trained(model, batch), load)
    model.eval()(batch)
    assert model.backbone.expert_load is None, "nothing is counted in evaluation"


def test_a_file_with_the_keys_of_other_code_is_read_and_written_back() -> None:
    data = {
        **AfmoeConfig.preset("trinity-mini").to_dict(),
        **FOR_OTHER_CODE,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "rope_parameters": None,
        "layer_types": None,
        "num_dense_layers": None,
        "torch_dtype": "bfloat16",
    }
    config = AfmoeConfig.from_dict(data)
    assert config.rope_parameters.rope_theta == 500000.0
    assert config.layer_types == (*["sliding_attention"] * 3, "full_attention") * 8
    assert (config.num_dense_layers, config.dtype) == (1, "bfloat16")
    written = config.to_dict()
    assert written.items() >= FOR_OTHER_CODE.items()
    assert AfmoeConfig.from_dict(written) == config
    theirs = transformers.AfmoeConfig(**written)
    assert theirs.rope_parameters["rope_theta"] == 500000.0
    assert theirs.layer_types == [*config.layer_types]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"score_func": "softmax"}, "score_func: 'softmax' is not how .*, only 'sigmoid' is"),
        ({"route_norm": False}, "route_norm: False is not how"),
        ({"n_group": 4}, "n_group: 4 is not how"),
        ({"num_experts_per_tok": 65}, "num_experts_per_tok: 65 are more than num_experts, 64"),
        ({"num_dense_layers": 33}, "num_dense_layers: must be from 0 to num_hidden_layers, 32, got 33"),
        ({"sliding_window": 0}, "sliding_window: must be at least 1, got 0"),
        ({"layer_types": ["full_attention"]}, "layer_types: needs 32, one for each layer, got 1"),
        ({"layer_types": ["linear"] * 32}, "layer_types: unknown 'linear', known are sliding_attention"),
        ({"head_dim": 7}, "head_dim: rotary embeddings need an even number"),
        (
            {"rope_parameters": {"sliding_attention": {}, "full_attention": {}}},
            "rope_parameters: has settings for each type of layer .* give one set",
        ),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        AfmoeConfig.from_dict(fields)


def test_theta_may_stand_alone() -> None:
    config = AfmoeConfig(rope_theta=500.0)
    assert config.rope_parameters.rope_theta == 500.0
    assert AfmoeConfig(rope_parameters={"rope_theta": 500.0}).to_dict() == config.to_dict()
    assert AfmoeConfig().rope_theta == 10000.0
    with pytest.raises(ConfigError, match="rope_theta: rope_parameters have another one"):
        AfmoeConfig(rope_theta=5.0, rope_parameters={"rope_theta": 500.0})


def test_the_published_shape_has_the_published_size() -> None:
    model = build_model(AfmoeConfig.preset("trinity-mini"), "causal_lm", device="meta")
    with torch.device("meta"):
        oracle = transformers.AfmoeForCausalLM(transformers.AfmoeConfig(**model.config.to_dict()))
    assert model.num_parameters() == sum(p.numel() for p in oracle.parameters() if p.requires_grad)
    assert 26e9 < model.num_parameters() < 26.5e9


def test_files_hold_the_weights_of_each_expert(tmp_path: Path) -> None:
    model = CASE.ours("causal_lm", {"num_experts": 12})
    expected = dict(named_checkpoint_tensors(model))
    model.save_pretrained(tmp_path / "ours")
    CASE.theirs("causal_lm", model).save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert "model.layers.1.mlp.experts.11.gate_proj.weight" in ours
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for name in ("ours", "theirs"):
        back = AfmoeForCausalLM.from_pretrained(
            tmp_path / name, dtype="bfloat16", experts_implementation="batched_mm"
        )
        assert back.backbone.layers[1].mlp.experts.implementation == "batched_mm"
        for key, tensor in named_checkpoint_tensors(back):
            wide = "norm" in key or key.endswith("expert_bias")
            assert torch.equal(tensor, expected[key] if wide else expected[key].bfloat16()), key
