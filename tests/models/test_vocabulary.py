"""Word embeddings that are exchanged, shared and resized, as in transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from models import LlamaConfig, TaskModel, build_model
from models.bert.config import BertConfig
from models.vocabulary import SPREAD
from models.weights import checkpoint_names, named_checkpoint_tensors
from tests.models.oracle import close, ours, raises, theirs

IDS = torch.arange(1, 25).view(2, 12)
BERT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}


def bert(**fields: Any) -> tuple[TaskModel, nn.Module]:
    """A masked language model with a random bias, and the same in transformers."""
    model = build_model(BertConfig(**BERT, **fields), "masked_lm", seed=0).eval()
    bias = model.head.word_bias
    nn.init.normal_(bias, generator=torch.Generator().manual_seed(0))
    oracle = transformers.BertForMaskedLM(transformers.BertConfig(**BERT, **fields)).eval()
    oracle.load_state_dict(dict(named_checkpoint_tensors(model)), strict=False)
    oracle.tie_weights()
    return model, oracle


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [80, 96, 130])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_resized_models_are_the_references(kind: str, tied: bool, size: int) -> None:
    if kind == "llama":
        model = ours(tie_word_embeddings=tied)
        oracle = theirs(model)
    else:
        model, oracle = bert(tie_word_embeddings=tied)
    keys, parameters = checkpoint_names(model), dict(model.named_parameters())
    table = model.resize_token_embeddings(size)
    oracle.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert model.config.vocab_size == table.num_embeddings == size
    assert (model.get_output_embeddings().weight is table.weight) == tied
    assert checkpoint_names(model) == keys
    now = dict(model.named_parameters())
    assert now.keys() == parameters.keys()
    assert all(now[name] is parameter for name, parameter in parameters.items())
    with torch.no_grad():  # new rows are the old ones' mean in both, but for 3e-5 of their spread
        assert close(model(IDS).logits, oracle(IDS).logits, 1e-3)
    state = oracle.state_dict()
    for key, tensor in named_checkpoint_tensors(model):
        assert tensor.shape == state[key].shape, key
        assert close(tensor[:80], state[key][:80], 0.0) or tensor.dim() == 0, key
        assert close(tensor, state[key], 1e-3), key


def test_new_rows_have_the_old_ones_mean_and_covariance() -> None:
    model = ours(tie_word_embeddings=False)
    old = model.get_input_embeddings().weight.detach().clone()
    torch.manual_seed(0)
    rows = model.resize_token_embeddings(96 + 20000).weight.detach()[96:].double()
    mean, covariance = old.double().mean(0), torch.cov(old.double().T, correction=0)
    scale = covariance.diagonal().max()
    assert (rows.mean(0) - mean).abs().max() < 5 * (SPREAD * scale / 20000) ** 0.5 + 1e-7
    assert (torch.cov(rows.T) / SPREAD - covariance).abs().max() < 0.1 * scale
    torch.manual_seed(0)
    again = ours(tie_word_embeddings=False).resize_token_embeddings(96 + 20000).weight
    assert torch.equal(again[96:].double(), rows), "torch's generator alone decides"
    wide = ours().resize_token_embeddings(96 + 2000, mean_resizing=False).weight[96:]
    assert wide.std().item() == pytest.approx(0.2, rel=0.02)


def test_sizes_are_rounded_up_and_judged() -> None:
    model = ours(pad_token_id=5)
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.config.vocab_size == 96
    assert len(model.resize_token_embeddings(pad_to_multiple_of=64).weight) == 128
    assert len(model.resize_token_embeddings(129, pad_to_multiple_of=64).weight) == 192
    before = model.config
    for wrong, said in {
        (0, None): "new_num_tokens: must be a whole number of at least 1, got 0",
        (8, 0.5): "pad_to_multiple_of: must be a whole number of at least 1, got 0.5",
        (5, None): "LlamaConfig.pad_token_id: 5 is outside the vocabulary of 5",
    }.items():
        assert raises(lambda wrong=wrong: model.resize_token_embeddings(*wrong)) == said
        assert (model.config, len(model.get_input_embeddings().weight)) == (before, 192)


def test_a_new_word_for_padding_is_zero_and_known_to_the_head() -> None:
    model = ours("sequence_classification")
    assert "pad_token_id" in raises(lambda: model(IDS))
    table = model.resize_token_embeddings(97, pad_token_id=96)
    assert not table.weight[96].any()
    assert (model.config.pad_token_id, table.padding_idx, model.head.pad_token_id) == (96, 96, 96)
    padded = torch.cat([IDS, torch.full((2, 3), 96)], dim=1)
    assert close(model(padded, attention_mask=(padded != 96).long()).logits, model(IDS).logits)
    table.weight.grad = None
    model(padded).logits.sum().backward()
    assert not table.weight.grad[96].any()
    kept = ours(pad_token_id=90)
    kept.config = kept.config.update({"pad_token_id": None})
    assert kept.resize_token_embeddings(80).padding_idx is None


def test_on_the_meta_device_shapes_are_resized() -> None:
    model = build_model(LlamaConfig.preset("tiny"), "causal_lm", device="meta")
    model.resize_token_embeddings(600)
    model.to_empty(device="cpu").init_weights(0)
    assert model(IDS).logits.shape == (2, 12, 600)
    assert model.head.weight is model.get_input_embeddings().weight


def test_embeddings_are_exchanged_and_told() -> None:
    model = ours(tie_word_embeddings=True)
    assert model.get_expanded_tied_weights_keys() == {"head.weight": "backbone.embed_tokens.weight"}
    new = nn.Embedding(96, 32)
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert model.head.weight is new.weight
    missing = {"head.weight", "backbone.norm.weight"}
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    assert missing == {"backbone.norm.weight"}
    scores = nn.Linear(32, 96, bias=False)
    model.set_output_embeddings(scores)
    assert model.get_output_embeddings().weight is scores.weight
    assert model.get_expanded_tied_weights_keys() == {}
    model.tie_weights(recompute_mapping=False)
    assert model.head.weight is scores.weight
    model.tie_weights()
    assert model.head.weight is new.weight, "the configuration says so"
    masked, _ = bert(tie_word_embeddings=False)
    masked.set_output_embeddings(linear := nn.Linear(32, 96))
    assert masked.head.word_bias is linear.bias
    assert masked.get_output_embeddings().weight is linear.weight
    assert ours(None).get_output_embeddings() is None
    refused = raises(lambda: ours("sequence_classification").set_output_embeddings(scores))
    assert refused == "set_output_embeddings: the head sequence_classification scores no words"
    assert raises(lambda: ours(None).set_output_embeddings(scores)).endswith("the head None scores no words")
