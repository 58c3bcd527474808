"""Models by name: built, saved and loaded, here and in transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import models
from models import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    build_model,
)
from tests.models.oracle import close, ours, raises, theirs

IDS = torch.arange(1, 25).view(2, 12)
LOADED = {
    "causal_lm": transformers.LlamaForCausalLM,
    "sequence_classification": transformers.LlamaForSequenceClassification,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", LOADED)
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_saved_folder_loads_in_transformers(head: str, tied: bool, shard: str, tmp_path: Path) -> None:
    model = ours(head, tie_word_embeddings=tied, num_labels=3, pad_token_id=0)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    oracle, report = LOADED[head].from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert close(oracle(IDS).logits, model(IDS).logits)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [LOADED[head].__name__]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", LOADED)
def test_a_folder_of_transformers_loads_here(head: str, tied: bool, tmp_path: Path) -> None:
    oracle = theirs(ours(head, tie_word_embeddings=tied, num_labels=3, pad_token_id=0))
    oracle.save_pretrained(tmp_path)
    auto = {"causal_lm": AutoModelForCausalLM, "sequence_classification": AutoModelForSequenceClassification}
    model = auto[head].from_pretrained(tmp_path)
    assert not model.training
    assert torch.equal(model(IDS).logits, oracle(IDS).logits)
    backbone = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(backbone(IDS).last_hidden_state, oracle.model(IDS).last_hidden_state)


def test_a_bare_backbone_goes_both_ways(tmp_path: Path) -> None:
    model = ours(None)
    model.save_pretrained(tmp_path / "ours")
    oracle, report = transformers.LlamaModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    oracle.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        loaded = AutoModel.from_pretrained(tmp_path / folder)
        assert torch.equal(loaded(IDS).last_hidden_state, model(IDS).last_hidden_state)


def test_documented_names_are_compositions() -> None:
    config = LlamaConfig.preset("tiny")
    assert LlamaForCausalLM(config).head.name == "causal_lm"
    assert (
        models.llama.LlamaForSequenceClassification.from_config(config).head.name == "sequence_classification"
    )
    assert all(getattr(models, name) is not None for name in models._PUBLIC)
    assert raises(lambda: models.LlamaForCausalLN) == "module 'models' has no attribute 'LlamaForCausalLN'"
    assert (
        raises(lambda: build_model(config, "causal"))
        == "model_type: llama has no head for 'causal'; did you mean 'causal_lm'?"
    )


def test_checkpoint_names_are_the_ones_users_know() -> None:
    names = models.weights.checkpoint_names(ours())
    assert names["backbone.layers.1.self_attn.q_proj.weight"] == "model.layers.1.self_attn.q_proj.weight"
    assert names["head.weight"] == "lm_head.weight"
    assert "head.weight" not in models.weights.checkpoint_names(ours(tie_word_embeddings=True))


def test_compute_runs_inside_forward_on_hidden_states() -> None:
    model = ours()
    inside = []
    model.register_forward_hook(lambda *_: inside.append("end"))
    hidden = model(
        {"input_ids": IDS, "labels": IDS}, compute=lambda head, hidden: (inside.append(head), hidden)[1]
    )
    assert hidden.shape == (2, 12, 32)
    assert inside == [model.head, "end"]
    assert close(model.head(hidden), model(IDS).logits)
