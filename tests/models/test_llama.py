"""Llama against transformers on the same random weights: logits, losses and every gradient."""

from __future__ import annotations

import pytest
import torch

from models import LlamaConfig, build_model
from models.layers.attention import ATTENTION, Visibility
from tests.models.oracle import (
    ROPES,
    assert_gradients_agree,
    close,
    ours,
    packed_batch,
    padded_batch,
    raises,
    theirs,
)

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SHAPES = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "multi-query": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    "tied": {"tie_word_embeddings": True},
    "wide-heads": {"head_dim": 16, "num_key_value_heads": 2},
    "padding-row": {"pad_token_id": 0, "rms_norm_eps": 1e-3, "hidden_act": "gelu"},
}


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_logits_loss_and_gradients_equal_transformers(shape: str, attn: str, side: str) -> None:
    model = ours(attn=attn, **SHAPES[shape])
    oracle = theirs(model, attn=attn)
    batch = padded_batch(side)
    found, expected = model(batch), oracle(**batch)
    real = batch["attention_mask"].bool()
    assert close(found.logits[real], expected.logits[real])
    assert close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    assert_gradients_agree(model, oracle)


@pytest.mark.parametrize("length", [12, 60, 100])
@pytest.mark.parametrize("rope", ROPES)
def test_rope_types_equal_transformers(rope: str, length: int) -> None:
    model = ours(rope_parameters=ROPES[rope])
    oracle = theirs(model)
    ids = torch.randint(0, 96, (2, length), generator=torch.Generator().manual_seed(3))
    found, expected = model(input_ids=ids, labels=ids), oracle(input_ids=ids, labels=ids)
    assert close(found.logits, expected.logits)
    assert close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    assert_gradients_agree(model, oracle)


def test_loss_is_divided_by_the_items_of_the_whole_step() -> None:
    model = ours()
    oracle = theirs(model)
    batch = padded_batch("right")
    found = model(batch, num_items_in_batch=torch.tensor(77))
    assert close(found.loss, oracle(**batch, num_items_in_batch=torch.tensor(77)).loss)


def test_hidden_states_and_attentions_equal_transformers() -> None:
    model = ours(attn="eager")
    oracle = theirs(model, attn="eager")
    ids = torch.arange(24).view(2, 12)
    found = model(ids, output_hidden_states=True, output_attentions=True)
    expected = oracle(ids, output_hidden_states=True, output_attentions=True)
    for name in ("hidden_states", "attentions"):
        assert len(found[name]) == len(expected[name])
        assert all(close(a, b) for a, b in zip(found[name], expected[name], strict=True))


def test_embeddings_may_be_given_instead_of_ids() -> None:
    model = ours()
    ids = torch.arange(12).view(1, 12)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
    assert "either input_ids or inputs_embeds" in raises(lambda: model(ids, inputs_embeds=embedded))


def test_logits_to_keep_gives_the_last_positions() -> None:
    model = ours()
    ids = torch.arange(24).view(2, 12)
    whole = model(ids).logits
    assert close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    assert close(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, whole[:, [0, 4]])


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("rope", ["default", "dynamic", "longrope"])
def test_packed_documents_equal_separate_ones(attn: str, rope: str) -> None:
    lengths = (7, 1, 70, 19) if rope != "default" else (7, 1, 20, 19)
    model = ours(attn=attn, num_key_value_heads=2, rope_parameters=ROPES[rope])
    batch = packed_batch(lengths)
    with torch.no_grad():
        packed = model(batch).logits
        derived = model({name: batch[name] for name in ("input_ids", "cu_seqlens")}).logits
        separate = [model(ids).logits for ids in batch["input_ids"].split(lengths, dim=1)]
    assert close(packed, torch.cat(separate, dim=1), 1e-6)
    assert torch.equal(packed, derived)


def test_packed_gradients_equal_separate_ones() -> None:
    batch, lengths = packed_batch((9, 14, 3)), (9, 14, 3)
    gradients = []
    for packed in (True, False):
        model = ours(num_key_value_heads=2)
        if packed:
            model(batch, labels=batch["input_ids"], num_items_in_batch=23).loss.backward()
        else:
            for ids in batch["input_ids"].split(lengths, dim=1):
                model(ids, labels=ids, num_items_in_batch=23).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(close(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_backend_gives_the_same_logits_on_padding(attn: str, side: str) -> None:
    batch = padded_batch(side)
    with torch.no_grad():
        found = ours(attn=attn, num_key_value_heads=2)(batch).logits
        expected = theirs(ours(num_key_value_heads=2))(**batch).logits
    real = batch["attention_mask"].bool()
    assert close(found[real], expected[real])
    assert found.isfinite().all()


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_cached_equals_uncached(attn: str, side: str) -> None:
    model = ours(attn=attn, num_key_value_heads=2)
    ids = torch.randint(1, 96, (3, 20), generator=torch.Generator().manual_seed(4))
    mask = torch.ones(3, 20, dtype=torch.long)
    if side != "none":
        mask[0, slice(0, 5) if side == "left" else slice(8, 12)] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = [{"attention_mask": mask[:, :end]} if side != "none" else {} for end in (12, 15, *range(16, 21))]
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, position_ids=positions).logits
        cache, start, parts = None, 0, []
        for step, end in zip(given, (12, 15, *range(16, 21)), strict=True):
            place = slice(start, end)
            out = model(
                ids[:, place],
                position_ids=positions[:, place],
                past_key_values=cache,
                use_cache=True,
                **step,
            )
            cache, start = out.past_key_values, end
            parts.append(out.logits)
    assert cache.get_seq_length() == 20
    real = mask.bool()
    assert close(torch.cat(parts, dim=1)[real], whole[real])


def test_sliced_linears_equal_whole_ones() -> None:
    fields = {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}
    ids = torch.arange(24).view(2, 12)
    outs, gradients = [], []
    for tp in (1, 4):
        model = ours(pretraining_tp=tp, **fields)
        out = model(ids, labels=ids)
        out.loss.backward()
        outs.append(out.logits)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert close(*outs)
    assert all((a - b).norm() <= 1e-5 * max(a.norm(), 1e-4) for a, b in zip(*gradients, strict=True))


def test_gradient_checkpointing_changes_no_number() -> None:
    ids = torch.arange(24).view(2, 12)
    gradients = []
    for recompute in (False, True):
        model = ours().train()
        if recompute:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert "use_cache=False" in raises(lambda: model(ids, use_cache=True))


def test_attention_dropout_acts_in_training_only() -> None:
    ids = torch.arange(24).view(2, 12)
    for attn in ("eager", "sdpa"):
        model = ours(attn=attn, attention_dropout=0.5)
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.allclose(model(ids).logits, model(ids).logits)


def test_weights_are_reproducible_and_follow_the_scheme() -> None:
    config = LlamaConfig.preset("tiny", pad_token_id=3, attention_bias=True, initializer_range=0.05)
    model, same = (build_model(config, "causal_lm", seed=5) for _ in range(2))
    other = build_model(config, "causal_lm", seed=6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.05)
            assert not torch.equal(parameter, other.get_parameter(name))
    assert not model.get_input_embeddings().weight[3].any()
    assert model.head.weight is model.get_input_embeddings().weight


def test_a_model_made_on_the_meta_device_runs_after_to_empty() -> None:
    config = LlamaConfig.preset("tiny")
    late = build_model(config, "causal_lm", device="meta")
    assert all(parameter.is_meta for parameter in late.parameters())
    late(torch.zeros(1, 4, dtype=torch.long, device="meta"))
    late.to_empty(device="cpu").init_weights(7)
    ids = torch.arange(8).view(1, 8)
    assert torch.equal(late(ids).logits, build_model(config, "causal_lm", seed=7)(ids).logits)


def test_rotary_frequencies_stay_fp32_when_the_model_is_cast() -> None:
    model = ours()
    wide = model.backbone.rotary_emb(torch.arange(50)[None])
    cast = model.to(torch.bfloat16).backbone.rotary_emb(torch.arange(50)[None])
    assert all(torch.equal(a, b) for a, b in zip(wide, cast, strict=True))


def test_bf16_follows_transformers() -> None:
    model = ours(num_key_value_heads=2)
    oracle = theirs(model).bfloat16()
    model.bfloat16()
    ids = torch.arange(48).view(2, 24)
    assert close(model(ids).logits.float(), oracle(ids).logits.float(), 2e-2)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_autocast_trains_near_fp32(attn: str) -> None:
    gradients, batch = [], packed_batch((9, 14, 3))
    for enabled in (False, True):
        model = ours(attn=attn, num_key_value_heads=2).train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            model(batch, compute=lambda head, hidden: head.nll(hidden, batch["input_ids"])).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert gradients[1].dtype == torch.float32
    assert (gradients[0] - gradients[1]).norm() <= 0.05 * gradients[0].norm()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ours(attn="sdap"), "model.attn_implementation: there is no 'sdap'; did you mean 'sdpa'?"),
        (
            lambda: ours()(torch.ones(1, 4).long(), output_attentions=True),
            "output_attentions: only attn_implementation eager has attention weights to return",
        ),
        (
            lambda: ours(attn="flex_attention")(torch.ones(1, 4).long()),
            "model.attn_implementation: flex_attention cannot train on a CPU, use sdpa",
        ),
        (
            lambda: ours(attn="flash_attention_2")(torch.ones(1, 4).long()),
            "model.attn_implementation: flash_attention_2 needs a package: pip install flash-attn",
        ),
        (
            lambda: ours()(torch.ones(2, 4).long(), cu_seqlens=torch.tensor([0, 4])),
            "cu_seqlens describes one packed row: give it no attention_mask, no cache, batch size 1",
        ),
        (
            lambda: ours()(torch.ones(2, 4).long(), attention_mask=torch.ones(2, 3)),
            "attention_mask: expected shape (2, 4) (batch, cached + new tokens), got (2, 3)",
        ),
        (
            lambda: ours()(torch.ones(2, 4).long(), labels=torch.ones(2, 4).long(), logits_to_keep=1),
            "logits_to_keep: a loss needs the logits of all positions, leave it out with labels",
        ),
    ],
)
def test_wrong_use_is_answered_in_one_sentence(call, text: str) -> None:
    assert raises(call) == text


def test_masks_are_made_once_for_all_layers() -> None:
    visibility = Visibility(num_queries=4, num_keys=4, device=torch.device("cpu"))
    assert visibility.mask is visibility.mask
    assert set(ATTENTION) == {"eager", "sdpa", "flash_attention_2", "flex_attention"}
