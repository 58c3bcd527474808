"""What BERT has beyond the shared suite: decoding beside an encoder, dropout, packing, files, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from conf.errors import ConfigError
from models import DynamicCache, EncoderDecoderCache, TaskModel, build_model
from models.bert import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertLMHeadModel, BertModel
from models.weights import named_checkpoint_tensors
from tests.models.families.bert import CASE
from tests.models.families.family import labelled, padded
from tests.models.oracle import assert_gradients_agree, close, raises

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SEQ2SEQ = {"is_decoder": True, "add_cross_attention": True}


def encoded(side: str = "right") -> dict[str, Tensor]:
    """An encoder's hidden states of three rows of 9, 4 and 6 tokens, padded on one side, or on none."""
    mask = torch.zeros(3, 9, dtype=torch.long)
    for row, length in enumerate((9, 4, 6)):
        mask[row, slice(0, length) if side == "right" else slice(9 - length, 9)] = 1
    hidden = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(5))
    given = {"encoder_hidden_states": hidden}
    return given if side == "none" else given | {"encoder_attention_mask": mask}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("sides", [("right", "left"), ("left", "right"), ("right", "none")])
def test_a_decoder_beside_an_encoder_equals_the_oracle(attn: str, sides: tuple[str, str]) -> None:
    model = CASE.ours("causal_lm", SEQ2SEQ, attn=attn).train()
    oracle = CASE.theirs("causal_lm", model, attn=attn).train()
    batch = labelled("causal_lm", model, padded(sides[0], token_types=True))
    runs = []
    for asked in (model, oracle):
        inputs = batch | encoded(sides[1])
        inputs["encoder_hidden_states"].requires_grad_()
        output = asked(**inputs)
        output.loss.backward()
        runs.append((output.loss, output.logits, inputs["encoder_hidden_states"].grad))
    real = batch["attention_mask"].bool()
    (loss, logits, grad), (expected_loss, expected_logits, expected_grad) = runs
    assert close(loss, expected_loss)
    assert close(logits[real], expected_logits[real])
    assert close(grad, expected_grad)
    assert_gradients_agree(model, oracle)


def test_cross_attentions_equal_the_oracle() -> None:
    model = CASE.ours("causal_lm", SEQ2SEQ, attn="eager")
    oracle = CASE.theirs("causal_lm", model, attn="eager")
    batch = {"input_ids": padded("right")["input_ids"], **encoded()}
    batch |= {"output_attentions": True, "output_hidden_states": True}
    found, expected = model(batch), oracle(**batch)
    assert found.cross_attentions[0].shape == (3, 4, 20, 9)
    for name in ("cross_attentions", "attentions", "hidden_states"):
        assert len(found[name]) == len(expected[name])
        assert all(close(a, b) for a, b in zip(found[name], expected[name], strict=True)), name
    alone = model(batch["input_ids"], output_attentions=True)  # as a decoder of its own
    assert alone.cross_attentions is None


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("given", [None, DynamicCache, EncoderDecoderCache])
def test_cached_equals_uncached_beside_an_encoder(attn: str, given: Callable[[], Any] | None) -> None:
    model = CASE.ours("causal_lm", SEQ2SEQ, attn=attn)
    oracle = CASE.theirs("causal_lm", model, attn=attn)
    batch, source = padded("left"), encoded()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = oracle(ids, attention_mask=mask, **source, use_cache=False).logits
        cache, start, parts = given and given(), 0, []
        for end in (12, 15, *range(16, 21)):
            out = model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                past_key_values=cache,
                use_cache=True,
                **source,
            )
            cache, start = out.past_key_values, end
            parts.append(out.logits)
            # Keys and values of the encoder's tokens are computed once: what comes later is not read.
            source = source | {"encoder_hidden_states": torch.zeros(3, 9, 32)}
    assert isinstance(cache, EncoderDecoderCache)
    assert (cache.get_seq_length(), cache.cross_attention_cache.get_seq_length(1)) == (20, 9)
    real = mask.bool()
    assert close(torch.cat(parts, dim=1)[real], expected[real])


def test_dropout_is_where_the_oracle_has_it() -> None:
    fields = {**SEQ2SEQ, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    model = CASE.ours("causal_lm", fields, attn="eager").train()
    oracle = CASE.theirs("causal_lm", model, attn="eager").train()
    batch = {"input_ids": padded("right")["input_ids"], **encoded()}
    torch.manual_seed(11)
    found = model(batch).logits
    torch.manual_seed(11)
    assert close(found, oracle(**batch).logits)
    assert not close(found, model(batch).logits)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_reaches_the_encoder(use_reentrant: bool) -> None:
    gradients, reached = [], []
    for recompute in (False, True):
        model = CASE.ours("causal_lm", SEQ2SEQ).train()
        batch = labelled("causal_lm", model, padded("right")) | encoded()
        batch["encoder_hidden_states"].requires_grad_()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            assert "cannot fill a cache" in raises(lambda m=model, b=batch: m(b, use_cache=True))
        model(batch).loss.backward()
        reached.append(batch["encoder_hidden_states"].grad)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert close(reached[0], reached[1], 1e-6)  # added up in another order, if reentrant


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
def test_packed_texts_of_an_encoder_equal_separate_ones(attn: str) -> None:
    model = CASE.ours(None, {"max_position_embeddings": 24}, attn=attn)
    lengths = (7, 1, 20, 19)
    ids = torch.randint(4, 96, (1, sum(lengths)), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        packed = model(ids, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int())
        separate = [model(part) for part in ids.split(lengths, dim=1)]
    hidden = torch.cat([output.last_hidden_state for output in separate], dim=1)
    assert close(packed.last_hidden_state, hidden, 1e-6)
    assert close(packed.pooler_output, torch.cat([output.pooler_output for output in separate]), 1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_backend_gives_the_same_on_padding(side: str) -> None:
    batch = padded(side, token_types=True)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found = [CASE.ours(None, attn=attn)(batch)[0] for attn in ("eager", "sdpa", "flex_attention")]
    assert all(close(hidden[real], found[0][real]) and hidden.isfinite().all() for hidden in found[1:])


@pytest.mark.parametrize("chunk", [1, 6, 64])
def test_chunks_of_the_feed_forward_change_no_number(chunk: int) -> None:
    batch = labelled("masked_lm", CASE.ours("masked_lm"), padded("right"))
    runs = []
    for size in (0, chunk):
        model = CASE.ours("masked_lm", {"chunk_size_feed_forward": size})
        output = model(batch)
        output.loss.backward()
        runs.append((output.logits, torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert all(close(a, b, 1e-6) for a, b in zip(*runs, strict=True))


def test_a_cache_that_is_given_is_used_and_counted() -> None:
    model = CASE.ours("causal_lm", {"is_decoder": True})
    ids = torch.arange(4, 28).view(2, 12)
    whole = model(ids)
    assert whole.past_key_values.get_seq_length() == 12  # by default, in evaluation
    assert model.train()(ids).past_key_values is None
    cache = model.eval()(ids[:, :8], use_cache=True).past_key_values
    assert close(model(ids[:, 8:], past_key_values=cache).logits, whole.logits[:, 8:])
    assert close(model(ids, logits_to_keep=3).logits, whole.logits[:, -3:])


ENCODED = {"encoder_hidden_states": torch.zeros(1, 3, 32)}


@pytest.mark.parametrize(
    ("fields", "inputs", "message"),
    [
        ({}, ENCODED, "encoder_hidden_states: this model has no cross-attention, set is_decoder and"),
        ({"is_decoder": True}, ENCODED, "encoder_hidden_states: this model has no cross-attention"),
        ({}, {"past_key_values": DynamicCache()}, "past_key_values: an encoder keeps no keys and values"),
        (
            SEQ2SEQ,
            {"encoder_attention_mask": torch.ones(1, 3)},
            "encoder_attention_mask: masks encoder_hidden",
        ),
        (SEQ2SEQ, ENCODED | {"encoder_attention_mask": torch.ones(1, 2)}, "expected shape (1, 3)"),
        (SEQ2SEQ, ENCODED | {"cu_seqlens": torch.tensor([0, 3, 5])}, "cu_seqlens: packed documents cannot"),
        ({}, {"output_attentions": True}, "output_attentions: only attn_implementation eager"),
        ({"max_position_embeddings": 4}, {}, "input_ids: a text reaches position 4, but max_position_embed"),
    ],
)
def test_inputs_that_do_not_go_together(fields: dict, inputs: dict, message: str) -> None:
    model = CASE.ours("causal_lm", fields)
    assert message in raises(lambda: model(torch.arange(4, 9)[None], **inputs))


def test_an_encoder_that_was_looked_at_is_needed_again() -> None:
    model = CASE.ours("causal_lm", SEQ2SEQ)
    cache = model(torch.arange(4, 9)[None], **ENCODED).past_key_values
    with pytest.raises(ValueError, match="give those with every call"):
        model(torch.tensor([[9]]), past_key_values=cache)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "num_attention_heads: 4 does not divide hidden_size"),
        ({"type_vocab_size": 0}, "type_vocab_size: must be at least 1, got 0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob: must be in [0, 1), got 1.0"),
        ({"classifier_dropout": -0.1}, "classifier_dropout: must be in [0, 1)"),
        ({"pad_token_id": 30522}, "pad_token_id: 30522 is outside the vocabulary of 30522"),
        ({"hidden_act": "gulu"}, "hidden_act: unknown 'gulu'"),
        ({"chunk_size_feed_forward": -1}, "chunk_size_feed_forward: must be at least 0"),
        ({"add_cross_attention": True}, "add_cross_attention: only a decoder looks at an encoder"),
        ({"extra": {"position_embedding_type": "relative_key"}}, "only absolute positions can be read"),
    ],
)
def test_impossible_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BertConfig(**fields)
    assert message in str(caught.value)


def test_the_first_configuration_files_are_read() -> None:
    config = BertConfig.from_dict(
        {
            "architectures": ["BertForMaskedLM"],
            "attention_probs_dropout_prob": 0.1,
            "gradient_checkpointing": False,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.2,
            "layer_norm_eps": 1e-12,
            "model_type": "bert",
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            "transformers_version": "4.6.0.dev0",
            "type_vocab_size": 2,
            "use_cache": True,
            "vocab_size": 30522,
        }
    )
    assert config.extra.keys() == {
        "gradient_checkpointing",
        "position_embedding_type",
        "transformers_version",
    }
    assert (config.head_dropout, BertConfig(classifier_dropout=0.0).head_dropout) == (0.2, 0.0)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("bert-base", 109482240), ("bert-large", 335141888), ("minilm-l6", 22713216)]
)
def test_presets_have_the_published_sizes(preset: str, parameters: int) -> None:
    assert BertModel(BertConfig.preset(preset), device="meta").num_parameters() == parameters


def test_the_pooler_can_be_left_out() -> None:
    model = BertModel(BertConfig.preset("tiny"), add_pooling_layer=False)
    assert model(torch.arange(5)[None]).pooler_output is None
    assert not any("pooler" in name for name, _ in model.named_parameters())


def test_untied_words_have_the_bias_that_the_oracle_adds(tmp_path: Path) -> None:
    model = CASE.ours("masked_lm", {"tie_word_embeddings": False})
    model.save_pretrained(tmp_path / "ours")
    oracle = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours")
    oracle.save_pretrained(tmp_path / "theirs")
    back = BertForMaskedLM.from_pretrained(tmp_path / "theirs")
    ids = torch.arange(4, 28).view(2, 12)
    assert close(model(ids).logits, oracle(ids).logits)
    assert torch.equal(back(ids).logits, model(ids).logits)


def test_a_pooler_that_the_files_lack_is_drawn(tmp_path: Path) -> None:
    masked = CASE.ours("masked_lm")
    masked.save_pretrained(tmp_path)
    model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=5)
    assert model.backbone.pooler.dense.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert not model.backbone.pooler.dense.bias.any()
    for name, value in model.backbone.state_dict().items():
        assert name.startswith("pooler.") or torch.equal(value, masked.backbone.state_dict()[name]), name


def test_cross_attention_that_an_encoder_lacks_is_drawn(tmp_path: Path) -> None:
    CASE.ours("masked_lm").save_pretrained(tmp_path)
    model = BertLMHeadModel.from_pretrained(tmp_path, **SEQ2SEQ)
    cross = model.backbone.encoder.layer[1].crossattention
    assert cross.self.query.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(cross.output.LayerNorm.weight, torch.ones(32))


def test_files_in_the_first_spelling_load(tmp_path: Path) -> None:
    model = CASE.ours("masked_lm")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in named_checkpoint_tensors(model)
    }
    old["bert.embeddings.position_ids"] = torch.arange(64)[None]
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    model.config.save_pretrained(tmp_path)
    save_file(old, tmp_path / "model.safetensors")
    back, info = BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    bare = BertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    ids = torch.arange(4, 28).view(2, 12)
    assert torch.equal(back(ids).logits, model(ids).logits)
    assert torch.equal(bare(ids)[0], model.backbone(ids)[0])


def test_fresh_weights_are_of_the_stated_width() -> None:
    model: TaskModel = build_model(BertConfig.preset("tiny", initializer_range=0.05), "masked_lm", seed=0)
    embeddings, layer = model.backbone.embeddings, model.backbone.encoder.layer[0]
    for weight in (embeddings.position_embeddings.weight, layer.attention.self.query.weight):
        assert weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert not embeddings.word_embeddings.weight[0].any()
    assert not layer.output.dense.bias.any()
    assert torch.equal(embeddings.LayerNorm.weight, torch.ones(64))
    assert isinstance(BertForSequenceClassification(BertConfig.preset("tiny"), device="meta"), TaskModel)
