"""How the kernels that need a GPU are called, by stand-ins that keep their documented contract."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from models.layers import attention
from tests.models.oracle import close, ours, packed_batch, padded_batch


def by_document(
    q: Tensor, k: Tensor, v: Tensor, borders_q: Tensor, borders_k: Tensor, scale: float
) -> Tensor:
    """Causal attention (tokens, heads, channels), aligned at the end of each document."""
    assert q.dtype == k.dtype == v.dtype
    outs = []
    for i in range(len(borders_q) - 1):
        part_q = q[borders_q[i] : borders_q[i + 1]].transpose(0, 1)
        part_k, part_v = (x[borders_k[i] : borders_k[i + 1]].transpose(0, 1) for x in (k, v))
        groups, new, all_ = q.shape[1] // k.shape[1], part_q.shape[1], part_k.shape[1]
        scores = part_q @ part_k.repeat_interleave(groups, 0).transpose(1, 2) * scale
        visible = torch.ones(new, all_, dtype=torch.bool).tril(all_ - new)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        outs.append((weights @ part_v.repeat_interleave(groups, 0)).transpose(0, 1))
    return torch.cat(outs)


def flash_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **options: Any
) -> Tensor:
    assert options["causal"]
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    return by_document(q, k, v, cu_q, cu_k, options["softmax_scale"])


def flash(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    assert options["causal"]
    rows = zip(q, k, v, strict=True)
    whole = (torch.tensor([0, q.shape[1]]), torch.tensor([0, k.shape[1]]))
    return torch.stack([by_document(*row, *whole, options["softmax_scale"]) for row in rows])


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("flash_attn")
    module.flash_attn_func, module.flash_attn_varlen_func = flash, flash_varlen
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("kind", ["left", "right", "packed", "plain"])
def test_flash_attention_equals_sdpa(kind: str) -> None:
    batch = {"packed": packed_batch((7, 1, 12)), "plain": {"input_ids": torch.arange(1, 25).view(2, 12)}}.get(
        kind
    )
    batch = batch or padded_batch(kind)
    real = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    found = ours(attn="flash_attention_2", num_key_value_heads=2)(batch).logits
    assert close(found[real], ours(num_key_value_heads=2)(batch).logits[real])
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the kernels take no mixture of types
        assert ours(attn="flash_attention_2")(batch).logits.dtype == torch.bfloat16


@pytest.mark.usefixtures("flash_attn")
@pytest.mark.parametrize("padded", [True, False])
def test_flash_attention_decodes_with_a_cache(padded: bool) -> None:
    from predictor.generate import generate

    batch = padded_batch("left") if padded else {"input_ids": torch.arange(1, 25).view(2, 12)}
    prompts = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
    found, expected = (
        generate(ours(attn=attn, num_key_value_heads=2, eos_token_id=None), **prompts, max_new_tokens=8)
        for attn in ("flash_attention_2", "sdpa")
    )
    assert torch.equal(found, expected)


def test_packed_sdpa_uses_the_varlen_kernel_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = packed_batch((7, 1, 12))
    expected = ours(num_key_value_heads=2)(batch).logits
    calls = []

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **options: Any
    ) -> Tensor:
        assert options["window_size"] == (-1, 0)
        assert options["enable_gqa"]
        calls.append((max_q, max_k))
        return by_document(q, k, v, cu_q, cu_k, options["scale"])

    monkeypatch.setattr(attention, "_has_varlen_kernel", lambda q, dropout: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    assert close(ours(num_key_value_heads=2)(batch).logits, expected)
    assert calls == [(12, 12), (12, 12)]


def test_varlen_kernel_is_not_for_cpus() -> None:
    assert not attention._has_varlen_kernel(torch.zeros(1, dtype=torch.bfloat16), 0.0)
