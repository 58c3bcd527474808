"""What is special to Llama, against transformers; the rest is in the suite that all families share."""

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


def test_logits_to_keep_gives_the_last_positions() -> None:
    model = ours()
    ids = torch.arange(24).view(2, 12)
    whole = model(ids).logits
    assert close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
    assert close(model(ids, logits_to_keep=torch.tensor([0, 4])).logits, whole[:, [0, 4]])


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_stretched_positions_depend_on_each_packed_documents_length(rope: str) -> None:
    lengths = (7, 1, 70, 19)
    model = ours(num_key_value_heads=2, rope_parameters=ROPES[rope])
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


@pytest.mark.parametrize("side", ["left", "right"])
def test_flex_attention_equals_sdpa_on_padding_and_with_a_cache(side: str) -> None:
    batch = padded_batch(side)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    models = [ours(attn=attn, num_key_value_heads=2) for attn in ("sdpa", "flex_attention")]
    found, cached = [], None
    with torch.no_grad():
        whole = [model(ids, attention_mask=mask).logits for model in models]
        for start, end in ((0, 12), (12, 19), (19, 20)):
            out = models[1](ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cached)
            cached = out.past_key_values
            found.append(out.logits)
    real = mask.bool()
    assert close(whole[1][real], whole[0][real])
    assert close(torch.cat(found, dim=1)[real], whole[0][real])
    assert whole[1].isfinite().all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_embedded_rows_are_classified_at_their_last_token(side: str) -> None:
    model = ours("sequence_classification", pad_token_id=0)
    oracle = theirs(model)
    ids, mask = (padded_batch(side)[name] for name in ("input_ids", "attention_mask"))
    embedded = model.get_input_embeddings()(ids)
    found = model(inputs_embeds=embedded, attention_mask=mask).logits
    assert close(found, oracle(input_ids=ids, attention_mask=mask).logits)
    if side == "left":  # where the last position is a token, which is what the reference takes
        assert close(found, oracle(inputs_embeds=embedded, attention_mask=mask).logits)


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


def test_shapes_can_be_computed_on_the_meta_device() -> None:
    model = build_model(LlamaConfig.preset("tiny"), "causal_lm", device="meta")
    assert model(torch.zeros(1, 4, dtype=torch.long, device="meta")).logits.shape == (1, 4, 512)


def test_rotary_frequencies_stay_fp32_when_the_model_is_cast() -> None:
    model = ours()
    wide = model.backbone.rotary_emb(torch.arange(50)[None])
    cast = model.to(torch.bfloat16).backbone.rotary_emb(torch.arange(50)[None])
    assert all(torch.equal(a, b) for a, b in zip(wide, cast, strict=True))


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


def test_recomputed_layers_fill_no_cache() -> None:
    model = ours().train()
    model.gradient_checkpointing_enable()
    message = "gradient checkpointing computes layers twice and cannot fill a cache: use_cache=False"
    assert raises(lambda: model(torch.ones(1, 4).long(), use_cache=True)) == message


def test_masks_are_made_once_for_all_layers() -> None:
    visibility = Visibility(num_queries=4, num_keys=4, device=torch.device("cpu"))
    assert visibility.mask is visibility.mask
    assert set(ATTENTION) == {"eager", "sdpa", "flash_attention_2", "flex_attention"}
