"""What is special to ALBERT: one module that is used many times, and its factorized, shared embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from models import build_model
from models.albert import AlbertConfig, AlbertForMaskedLM, AlbertForPreTraining, AlbertModel
from models.albert.model import AlbertAttention, AlbertLayer, AlbertLayerGroup
from models.weights import checkpoint_names, named_checkpoint_tensors
from tests.models.families.albert import CASE
from tests.models.families.family import labelled, padded
from tests.models.oracle import close, raises
from trainer.freezing import freeze
from trainer.optimizers.groups import parameter_groups
from trainer.optimizers.options import AdamW

FFN = "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"


def learned(fields: dict[str, Any], task: str = "pretraining") -> tuple[Any, dict[str, Any]]:
    """A model after one backward pass, and the batch."""
    model = CASE.ours(task, fields).train()
    batch = labelled(task, model, padded("right", token_types=True))
    model(batch).loss.backward()
    return model, batch


# -- one module, many uses -------------------------------------------------------------------------


def test_gradients_of_all_uses_add_up() -> None:
    shared, batch = learned({"num_hidden_layers": 4})
    apart = CASE.ours("pretraining", {"num_hidden_layers": 4, "num_hidden_groups": 4}).train()
    weights = dict(named_checkpoint_tensors(shared))
    with torch.no_grad():
        for key, tensor in named_checkpoint_tensors(apart):
            used = [key.replace(f"layer_groups.{group}.", "layer_groups.0.") for group in range(4)]
            tensor.copy_(next(weights[name] for name in used if name in weights))
    apart(batch).loss.backward()
    grads = {name: parameter.grad for name, parameter in apart.named_parameters()}
    for name, parameter in shared.named_parameters():
        copies = {name.replace("layer_groups.0.", f"layer_groups.{group}.") for group in range(4)}
        added = sum(grads[copy] for copy in copies)
        if not name.endswith(".key.bias"):  # rounding alone
            assert close(parameter.grad, added), name


def test_hooks_run_at_every_use() -> None:
    model = CASE.ours("masked_lm", {"num_hidden_layers": 12, "num_hidden_groups": 2, "inner_group_num": 2})
    uses: list[str] = []
    watched = (AlbertLayerGroup, AlbertLayer, AlbertAttention)
    for name, module in model.named_modules():
        if isinstance(module, watched) or name.endswith(".ffn"):
            module.register_forward_hook(lambda *_, name=name: uses.append(name.partition("groups.")[2]))
    model(torch.arange(4, 12)[None])
    assert uses.count("0") == uses.count("1") == 6
    for layer in ("0.albert_layers.0", "0.albert_layers.1", "1.albert_layers.0", "1.albert_layers.1"):
        assert uses.count(layer) == uses.count(f"{layer}.ffn") == uses.count(f"{layer}.attention") == 6


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_every_use_is_computed_again_in_the_backward_pass(use_reentrant: bool) -> None:
    plain, batch = learned({"num_hidden_layers": 12, "inner_group_num": 2})
    again = CASE.ours("pretraining", {"num_hidden_layers": 12, "inner_group_num": 2}).train()
    again.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    calls = []
    layers = again.backbone.encoder.albert_layer_groups[0].albert_layers
    for layer in layers:
        layer.ffn.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    again(batch).loss.backward()
    assert len(calls) == 2 * 12 * 2
    for (name, parameter), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name


def test_what_is_shared_is_counted_and_saved_once(tmp_path: Path) -> None:
    fields = {"num_hidden_layers": 6, "num_hidden_groups": 2}
    model = CASE.ours("pretraining", fields)
    oracle = CASE.theirs("pretraining", model)
    assert model.num_parameters() == oracle.num_parameters()
    model.save_pretrained(tmp_path)
    files = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in files.values()) == model.num_parameters()
    back = AlbertForPreTraining.from_pretrained(tmp_path)
    assert back.head.predictions.decoder.weight is back.get_input_embeddings().weight
    assert back.num_parameters() == model.num_parameters()
    moved = back.to(torch.float64)
    assert moved.head.predictions.decoder.weight is moved.get_input_embeddings().weight


def test_a_shared_layer_is_frozen_and_grouped_once() -> None:
    model = CASE.ours("pretraining", {"num_hidden_layers": 12})
    names = checkpoint_names(model)
    freeze(model, names, frozen=[r"albert\.encoder\.albert_layer_groups\.0\..*attention.*"], unfrozen=None)
    groups = parameter_groups(model, names, AdamW(weight_decay=0.1))
    keys = [key for group in groups for key in group["param_names"]]
    assert keys.count(FFN) == 1
    assert not [key for key in keys if "attention" in key]
    assert len(keys) == sum(parameter.requires_grad for parameter in model.parameters())
    model.train()(labelled("pretraining", model, padded("right"))).loss.backward()
    frozen = model.backbone.encoder.albert_layer_groups[0].albert_layers[0].attention
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_a_layer_of_many_depths_has_no_rate_by_depth() -> None:
    model = CASE.ours("pretraining")
    options = AdamW(layer_decay=0.9)
    assert "no parameter's name has the number of its layer" in raises(
        lambda: parameter_groups(model, checkpoint_names(model), options)
    )


@pytest.mark.parametrize("fields", [{"inner_group_num": 3}, {"num_hidden_layers": 7, "num_hidden_groups": 3}])
def test_states_of_every_use_equal_the_oracle(fields: dict[str, int]) -> None:
    model = CASE.ours(None, fields, attn="eager")
    oracle = CASE.theirs(None, model, attn="eager")
    ids = torch.arange(4, 34).view(2, 15)
    asked = {"output_hidden_states": True, "output_attentions": True}
    found, expected = model(ids, **asked), oracle(ids, **asked)
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name])
        assert all(close(a, b) for a, b in zip(found[name], expected[name], strict=True)), name
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)


# -- embeddings and files --------------------------------------------------------------------------


def test_an_untied_model_adds_the_bias_that_the_oracle_adds(tmp_path: Path) -> None:
    config = transformers.AlbertConfig(**CASE.small, tie_word_embeddings=False)
    oracle = transformers.AlbertForMaskedLM(config).eval()
    with torch.no_grad():
        oracle.predictions.bias.uniform_()  # nothing uses it
        oracle.predictions.decoder.bias.uniform_()
    oracle.save_pretrained(tmp_path / "theirs")
    model = AlbertForMaskedLM.from_pretrained(tmp_path / "theirs")
    ids = torch.arange(4, 34).view(2, 15)
    assert close(model(ids).logits, oracle(ids).logits)
    assert close(
        model(ids, compute=lambda head, hidden: head.log_probs(hidden, ids)),
        oracle(ids).logits.log_softmax(-1).gather(2, ids[..., None])[..., 0],
    )
    model.save_pretrained(tmp_path / "ours")
    back = transformers.AlbertForMaskedLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(back(ids).logits, oracle(ids).logits)


def test_keys_of_older_files_are_read(tmp_path: Path) -> None:
    model = CASE.ours("pretraining")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {
        "predictions.decoder.weight": weights["albert.embeddings.word_embeddings.weight"].clone(),
        "predictions.decoder.bias": weights["predictions.bias"].clone(),
        "albert.embeddings.position_ids": torch.arange(64)[None],
    }
    save_file(weights, tmp_path / "model.safetensors")
    back = AlbertForPreTraining.from_pretrained(tmp_path)
    for (name, a), b in zip(model.named_parameters(), back.parameters(), strict=True):
        assert torch.equal(a, b), name
    bare = AlbertModel.from_pretrained(tmp_path)
    assert torch.equal(bare.backbone.pooler.weight, model.backbone.pooler.weight)


def test_a_backbone_need_not_pool() -> None:
    config = AlbertConfig(**CASE.small)
    plain = AlbertModel(config, add_pooling_layer=False)
    oracle = transformers.AlbertModel(transformers.AlbertConfig(**CASE.small), add_pooling_layer=False)
    assert plain(torch.arange(4, 9)[None]).get("pooler_output") is None
    assert {key for key, _ in named_checkpoint_tensors(plain)} == set(oracle.state_dict())


@pytest.mark.parametrize(("preset", "millions"), [("albert-base-v2", 11.8), ("albert-xxlarge-v2", 223.2)])
def test_presets_have_the_published_sizes(preset: str, millions: float) -> None:
    model = build_model(AlbertConfig.preset(preset), "pretraining", device="meta")
    with torch.device("meta"):
        config = transformers.AlbertConfig(**AlbertConfig.preset(preset).to_dict())
        oracle = transformers.AlbertForPreTraining(config)
    assert model.num_parameters() == oracle.num_parameters()
    assert round(model.num_parameters() / 1e6, 1) == millions


def test_the_published_configuration_file_is_read() -> None:
    published = {  # of albert-base-v2
        "attention_probs_dropout_prob": 0,
        "bos_token_id": 2,
        "classifier_dropout_prob": 0.1,
        "down_scale_factor": 1,
        "embedding_size": 128,
        "eos_token_id": 3,
        "gap_size": 0,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "inner_group_num": 1,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "layers_to_keep": [],
        "max_position_embeddings": 512,
        "model_type": "albert",
        "net_structure_type": 0,
        "num_attention_heads": 12,
        "num_hidden_groups": 1,
        "num_hidden_layers": 12,
        "num_memory_blocks": 0,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": 30000,
    }
    config = AlbertConfig.from_dict(published)
    assert config.to_dict().items() >= published.items()
    preset = AlbertConfig.preset("albert-base-v2").to_dict()
    assert {key: published[key] for key in preset.keys() & published.keys()} == {
        key: preset[key] for key in preset.keys() & published.keys()
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inner_group_num": 0}, "AlbertConfig.inner_group_num: must be at least 1, got 0"),
    (
        {"num_hidden_layers": 2, "num_hidden_groups": 3},
        "AlbertConfig.num_hidden_groups: 3 groups cannot each have one of num_hidden_layers, which is 2",
    ),
    (
        {"num_attention_heads": 5},
        "AlbertConfig.num_attention_heads: 5 does not divide hidden_size, which is 4096",
    ),
    (
        {"classifier_dropout_prob": 1.0},
        "AlbertConfig.classifier_dropout_prob: must be in [0, 1), got 1.0",
    ),
    (
        {"chunk_size_feed_forward": -1},
        "AlbertConfig.chunk_size_feed_forward: must be at least 0, got -1",
    ),
    (
        {"extra": {"position_embedding_type": "relative_key"}},
        "AlbertConfig.position_embedding_type: only absolute positions can be read, got 'relative_key'",
    ),
]


@pytest.mark.parametrize(("fields", "sentence"), WRONG)
def test_what_cannot_be_is_refused_in_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    assert raises(lambda: AlbertConfig(**fields)) == sentence


def test_inputs_that_do_not_go_together_are_refused() -> None:
    model = CASE.ours(None)
    ids = torch.arange(5)[None]
    assert raises(lambda: model(ids, output_attentions=True)) == (
        "output_attentions: only attn_implementation eager has attention weights to return"
    )
    assert "max_position_embeddings is 64" in raises(lambda: model(torch.ones(1, 65).long()))


def test_dropout_is_where_the_oracle_has_it() -> None:
    """As many masks are drawn, of the same shapes, as in the independent implementation."""
    fields = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout_prob": 0.1}
    model = CASE.ours("pretraining", fields, attn="eager").train()
    oracle = CASE.theirs("pretraining", model, attn="eager").train()
    ids = torch.arange(4, 34).view(2, 15)
    torch.manual_seed(3)
    found = model(ids)
    torch.manual_seed(3)
    expected = oracle(ids)
    assert close(found.prediction_logits, expected.prediction_logits)
    assert close(found.sop_logits, expected.sop_logits)
    assert torch.equal(model.eval()(ids).sop_logits, model(ids).sop_logits)
