"""What a model that is made tells of itself, and what can be switched on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from models import TaskModel, build_model, masks, switches
from models.bert.config import BertConfig
from tests.models.oracle import close, ours, raises, theirs

IDS = torch.arange(1, 25).view(2, 12)


def bert(task: str | None = None, **fields: Any) -> TaskModel:
    return build_model(BertConfig.preset("tiny", **fields), task, seed=0).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_sizes_and_types_are_the_references(tied: bool) -> None:
    model = ours(tie_word_embeddings=tied)
    oracle = theirs(model)
    assert model.get_memory_footprint(False) == oracle.get_memory_footprint(False)
    assert (model.device, model.dtype) == (oracle.device, oracle.dtype)
    assert model.bfloat16().dtype == torch.bfloat16
    assert model.base_model is model.backbone
    assert model.framework == "pt"
    assert model.can_generate()
    assert not ours("sequence_classification").can_generate()
    assert not ours(None).can_generate()


def test_parameters_and_buffers_by_name() -> None:
    model = ours()
    model.backbone.register_buffer("computed", torch.ones(2), persistent=False)
    model.backbone.register_buffer("counted", torch.ones(3))
    assert [name for name, _ in model.named_non_persistent_buffers()] == ["backbone.computed"]
    assert model.get_memory_footprint() == model.get_memory_footprint(return_buffers=False) + 20
    for name in ("head.weight", "backbone.computed", "backbone.counted"):
        assert isinstance(model.get_parameter_or_buffer(name), Tensor)
    with pytest.raises(AttributeError):
        model.get_parameter_or_buffer("head.nothing")


def test_parts_that_read_and_write() -> None:
    model, encoder = ours(), bert("masked_lm")
    assert model.get_decoder() is model.backbone
    assert model.get_encoder() is model
    assert encoder.get_encoder() is encoder.backbone.encoder
    encoder.set_encoder(new := nn.Identity())
    assert encoder.get_encoder() is new
    model.set_decoder(other := ours().backbone)
    assert model.backbone is other
    assert model.get_encoder("image") is model
    assert raises(lambda: model.set_encoder(new)) == (
        "set_encoder: a LlamaBackbone has no such part; it would be encoder"
    )
    assert raises(lambda: model.get_encoder("smell")).startswith("modality: there is no 'smell'")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_attention_is_switched_on_a_made_model(kind: str) -> None:
    model = ours() if kind == "llama" else bert("masked_lm")
    expected = model(IDS).logits
    with pytest.raises(Exception, match="only attn_implementation eager"):
        model(IDS, output_attentions=True)
    model.set_attn_implementation("eager")
    found = model(IDS, output_attentions=True)
    assert close(found.logits, expected)
    assert found.attentions[0].shape[-2:] == (12, 12)
    model.set_attn_implementation({"": "sdpa"})
    assert torch.equal(model(IDS).logits, expected)
    assert "did you mean 'sdpa'?" in raises(lambda: model.set_attn_implementation("spda"))
    assert "has no part 'vision_config'" in raises(
        lambda: model.set_attn_implementation({"vision_config": "eager"})
    )
    assert raises(lambda: model.set_experts_implementation("eager")).endswith("Backbone has no experts")


def test_gradients_reach_embedded_tokens_when_asked() -> None:
    model = ours()
    model.requires_grad_(False)
    assert not model(IDS).logits.requires_grad
    model.enable_input_require_grads()
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad
    assert model.supports_gradient_checkpointing
    assert not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def test_flash_attention_warns_of_weights_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(switches.logger, "warning", said.append)
    ours(attn="flash_attention_2").train()
    ours().bfloat16().train()
    model = ours(attn="flash_attention_2").bfloat16()
    assert said == []
    model.train()
    model.eval().train()
    assert len(said) == 1
    assert said[0].startswith("flash_attention_2: weights in half precision are not to be trained")
    frozen = ours(attn="flash_attention_2").bfloat16()
    frozen.requires_grad_(False)
    frozen.train()
    assert len(said) == 1


def test_a_new_configuration_reaches_the_head() -> None:
    model = ours("sequence_classification", num_labels=1)
    model.config = model.config.update({"pad_token_id": 0, "problem_type": "regression"})
    assert (model.head.pad_token_id, model.head.problem_type) == (0, "regression")
    assert model(IDS, labels=torch.tensor([0.5, 1.0])).loss.isfinite()


def test_fresh_weights_and_tags() -> None:
    model = ours()
    before = model.head.weight.clone()
    for draw in (model.initialize_weights, model.post_init):
        torch.manual_seed(5)
        draw()
        drawn = model.head.weight.clone()
        torch.manual_seed(5)
        model.init_weights()
        assert torch.equal(model.head.weight, drawn)
        assert not torch.equal(drawn, before)
    model.add_model_tags("a")
    model.add_model_tags(["b", "a"])
    assert model.model_tags == ["a", "b"]


def test_masks_to_add() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    least = torch.finfo(torch.float32).min
    model, decoder = bert(), bert(is_decoder=True)
    seen = model.get_extended_attention_mask(mask, (2, 3))
    assert torch.equal(seen, (1.0 - mask[:, None, None].float()) * least)
    assert torch.equal(model.invert_attention_mask(mask), seen)
    assert model.invert_attention_mask(mask[:, None].expand(2, 4, 3)).shape == (2, 1, 4, 3)
    causal = decoder.get_extended_attention_mask(mask, (2, 2), torch.bfloat16)
    assert causal.dtype == torch.bfloat16
    assert (causal == 0).int().tolist() == [[[[1, 1, 0], [1, 1, 0]]], [[[1, 1, 0], [1, 1, 1]]]]
    assert "got (3,)" in raises(lambda: model.invert_attention_mask(mask[0]))


def test_padding_without_a_mask_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(masks.logger, "warning", lambda text, *values: said.append(text % values))
    model, padded = bert(eos_token_id=0), torch.tensor([[5, 6, 0]])
    for ids, mask in ((padded, padded), (IDS, None), (padded, None), (padded, None)):
        model.warn_if_padding_and_no_attention_mask(ids, mask)
    assert said == [
        "attention_mask: there is padding (0) in input_ids, and it is attended to, unless it is eos_token_id "
        "here, which has the same id; give a mask that is 0 there."
    ]
    ours().warn_if_padding_and_no_attention_mask(padded, None)
    assert len(said) == 1, "no token is padding there"


def test_outputs_of_transformers_have_these_names() -> None:
    oracle = transformers.BertModel(transformers.BertConfig(**BertConfig.preset("tiny").to_dict()))
    assert type(oracle(IDS[:, :4])).__name__ == type(bert()(IDS[:, :4])).__name__
