"""NEFTune: the published distribution, padded and packed, in training only, gone without a trace."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.neftune import neftune_post_forward_hook

from conf.errors import ConfigError
from models import LlamaConfig, build_model
from trainer.neftune import NEFTune

WIDTH, ALPHA = 64, 5.0


class Embedded(nn.Module):
    """The smallest model with embeddings; like ours it takes a mapping, or inputs by name."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.table = nn.Embedding(10, WIDTH, dtype=dtype)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def forward(self, inputs: Any = None, **named: Any) -> Tensor:
        given = {**(inputs or {}), **named}
        return self.table(given["input_ids"])


def noise_of(model: nn.Module, seed: int = 0, **inputs: Tensor) -> Tensor:
    """What NEFTune adds to the embeddings."""
    clean = model(inputs)
    with NEFTune(model, ALPHA):
        torch.manual_seed(seed)
        return (model(inputs) - clean).detach()


def assert_published(noise: Tensor, tokens: int) -> None:
    """Uniform in (-m, m), m = alpha / sqrt(tokens x width): bounds, and moments to 5 standard errors."""
    bound = ALPHA / math.sqrt(tokens * WIDTH)
    count = noise.numel()
    assert 0.99 * bound < noise.abs().max() <= bound * (1 + 1e-5)
    assert abs(noise.mean()) < 5 * bound / math.sqrt(3 * count)
    scaled = noise / bound
    # variance 1/3, its standard error sqrt((1/5 - 1/9) / n); the fourth moment 1/5, sqrt((1/9 - 1/25) / n)
    assert abs(scaled.square().mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / count)
    assert abs(scaled.pow(4).mean() - 1 / 5) < 5 * math.sqrt(16 / 225 / count)
    neighbours = (scaled[..., 1:] * scaled[..., :-1]).mean()
    assert abs(neighbours) < 5 / (3 * math.sqrt(count)), "independent of each other"


def test_padded_rows_get_the_published_noise() -> None:
    noise = noise_of(Embedded(), input_ids=torch.zeros(40, 50, dtype=torch.long))
    assert_published(noise, tokens=50)


def test_packed_documents_get_the_noise_of_their_own_length() -> None:
    lengths = (1500, 400, 40)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    ids = torch.zeros(1, sum(lengths), dtype=torch.long)
    noise = noise_of(Embedded(), input_ids=ids, cu_seqlens=borders)
    for part, length in zip(noise[0].split(lengths), lengths, strict=True):
        assert_published(part, tokens=length)


def test_packed_equals_separate_documents_but_for_the_scale_of_each() -> None:
    lengths = (7, 5)
    borders, ids = torch.tensor([0, 7, 12]).int(), torch.zeros(1, 12, dtype=torch.long)
    model = Embedded()
    packed, row = noise_of(model, input_ids=ids, cu_seqlens=borders), noise_of(model, input_ids=ids)
    for part, whole, length in zip(packed[0].split(lengths), row[0].split(lengths), lengths, strict=True):
        torch.testing.assert_close(part, whole * math.sqrt(12 / length), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("give", [lambda m, x: m(**x), lambda m, x: m(x), lambda m, x: m(inputs=x)])
def test_borders_are_seen_however_they_are_given(give: Any) -> None:
    inputs = {"input_ids": torch.zeros(1, 12, dtype=torch.long), "cu_seqlens": torch.tensor([0, 7, 12])}
    model = Embedded()
    expected = noise_of(model, **inputs)
    with NEFTune(model, ALPHA):
        torch.manual_seed(0)
        found = give(model, inputs)
        torch.manual_seed(0)
        direct = model.table(inputs["input_ids"])
    clean = model(inputs)
    torch.testing.assert_close(found - clean, expected)
    assert not torch.allclose(direct - clean, expected), "borders of an earlier batch are forgotten"


def test_borders_are_forgotten_when_the_model_fails() -> None:
    model = Embedded()
    with NEFTune(model, ALPHA) as neftune:
        with pytest.raises(IndexError):
            model(input_ids=torch.tensor([[99]]), cu_seqlens=torch.tensor([0, 1]))
        assert neftune._borders is None


def test_noise_comes_from_torchs_generator() -> None:
    model, ids = Embedded(), torch.zeros(2, 6, dtype=torch.long)
    assert torch.equal(noise_of(model, 1, input_ids=ids), noise_of(model, 1, input_ids=ids))
    assert not torch.equal(noise_of(model, 1, input_ids=ids), noise_of(model, 2, input_ids=ids))


def test_evaluation_is_left_alone_and_draws_nothing() -> None:
    model, ids = Embedded().eval(), torch.zeros(2, 6, dtype=torch.long)
    before = torch.get_rng_state()
    with NEFTune(model, ALPHA):
        assert torch.equal(model(input_ids=ids), model.table.weight[ids])
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_left_at_the_end() -> None:
    model = Embedded()
    before = [dict(vars(module)) for module in model.modules()]
    neftune = NEFTune(model, ALPHA)
    ids = torch.zeros(2, 6, dtype=torch.long)
    assert not torch.equal(model(input_ids=ids), model.table.weight[ids])
    neftune.remove()
    neftune.remove()
    assert torch.equal(model(input_ids=ids), model.table.weight[ids])
    assert [dict(vars(module)) for module in model.modules()] == before
    assert not any(
        (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called)
        != ({}, {}, {})
        for module in model.modules()
    )


def test_the_scale_is_that_of_transformers() -> None:
    model, ids = Embedded(), torch.zeros(3, 8, dtype=torch.long)
    clean = model(input_ids=ids)
    torch.manual_seed(0)
    theirs = neftune_post_forward_hook(
        SimpleNamespace(training=True, neftune_noise_alpha=ALPHA), (ids,), clean
    )
    torch.testing.assert_close(noise_of(model, 0, input_ids=ids), theirs - clean, rtol=1e-4, atol=1e-6)


def test_noise_is_added_in_the_embeddings_type() -> None:
    model, ids = Embedded(torch.bfloat16), torch.zeros(2, 6, dtype=torch.long)
    with NEFTune(model, ALPHA):
        torch.manual_seed(0)
        noisy = model(input_ids=ids)
        torch.manual_seed(0)
        drawn = torch.empty(2, 6, WIDTH).uniform_(-1, 1) * ALPHA / math.sqrt(6 * WIDTH)
    assert noisy.dtype == torch.bfloat16
    assert torch.equal(noisy, model.table.weight[ids] + drawn.bfloat16())


def test_a_model_of_ours_trains_with_noise_and_gets_gradients() -> None:
    model = build_model(LlamaConfig.preset("tiny"), "causal_lm", seed=0).train()
    batch = {"input_ids": torch.arange(12)[None], "cu_seqlens": torch.tensor([0, 5, 12], dtype=torch.int32)}

    def loss() -> Tensor:
        return model(batch, compute=lambda head, hidden: head.nll(hidden, batch["input_ids"]))

    clean = loss()
    with NEFTune(model, ALPHA):
        noisy = loss()
        assert loss() != noisy
        noisy.backward()
    assert noisy != clean
    assert model.get_input_embeddings().weight.grad.any()
    assert torch.equal(loss(), clean)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), build_model(LlamaConfig.preset("tiny"), None)])
def test_a_model_that_names_no_embeddings_is_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(model, nn.Linear):
        monkeypatch.setattr(type(model), "get_input_embeddings", lambda self: None)
    with pytest.raises(ConfigError) as caught:
        NEFTune(model, ALPHA)
    assert str(caught.value) == (
        f"training.neftune_noise_alpha: noise goes on the embeddings, and {type(model).__name__} has no "
        "get_input_embeddings() that names them."
    )
    assert not model._forward_hooks
