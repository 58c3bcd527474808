"""Generation: cached, padded and batched alike, equal to transformers, sampled as the settings say."""

from __future__ import annotations

import pytest
import torch

from predictor.generate import Draw, generate
from tests.models.oracle import ours, padded_batch, raises, theirs


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("eos", [None, 7, (7, 11, 20)])
def test_greedy_equals_transformers(attn: str, eos: int | tuple[int, ...] | None) -> None:
    model = ours(attn=attn, num_key_value_heads=2, eos_token_id=None)
    oracle = theirs(model, attn=attn)
    batch = padded_batch("left")
    del batch["labels"]
    options = {"max_new_tokens": 30, "eos_token_id": list(eos) if isinstance(eos, tuple) else eos}
    found = generate(model, **batch, **options, pad_token_id=0)
    expected = oracle.generate(**batch, **options, pad_token_id=0, do_sample=False)
    assert torch.equal(found, expected)


def test_cached_equals_uncached() -> None:
    model = ours(num_key_value_heads=2, eos_token_id=None)
    batch = padded_batch("left")
    del batch["labels"]
    for options in ({}, {"do_sample": True, "seed": 3, "temperature": 0.8}):
        found = [
            generate(model, **batch, max_new_tokens=15, use_cache=cache, **options) for cache in (True, False)
        ]
        assert torch.equal(*found)


def test_a_padded_row_continues_as_it_does_alone() -> None:
    model = ours(eos_token_id=None)
    batch = padded_batch("left")
    together = generate(model, batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=12)
    for row, ids, mask in zip(together, batch["input_ids"], batch["attention_mask"], strict=True):
        alone = generate(model, ids[mask.bool()][None], max_new_tokens=12)
        assert torch.equal(row[-12:], alone[0, -12:])


def test_rows_end_at_the_end_token_and_are_filled_up() -> None:
    model = ours(eos_token_id=None)
    prompt = torch.arange(1, 9).view(2, 4)
    free = generate(model, prompt, max_new_tokens=10)
    end = int(free[0, 6])  # a token that the first row gives
    ended = generate(model, prompt, max_new_tokens=10, eos_token_id=end, pad_token_id=90)
    place = (free[0, 4:] == end).nonzero()[0].item() + 4
    assert torch.equal(ended[0, : place + 1], free[0, : place + 1])
    assert (ended[0, place + 1 :] == 90).all()
    assert generate(model, prompt[:1], max_new_tokens=10, eos_token_id=end).shape == (1, place + 1)


def test_end_and_padding_tokens_default_to_the_configuration() -> None:
    free = generate(ours(eos_token_id=None), torch.arange(1, 5)[None], max_new_tokens=8)
    model = ours(eos_token_id=int(free[0, 5]))
    assert generate(model, torch.arange(1, 5)[None], max_new_tokens=8).shape[1] <= 6


def test_sampling_is_reproducible_and_keeps_the_mode_of_the_model() -> None:
    model = ours(eos_token_id=None).train()
    prompt = torch.arange(1, 9).view(2, 4)
    options = {"max_new_tokens": 20, "do_sample": True}
    first = generate(model, prompt, seed=1, **options)
    assert torch.equal(first, generate(model, prompt, seed=1, **options))
    assert torch.equal(first, generate(model, prompt, generator=torch.Generator().manual_seed(1), **options))
    assert not torch.equal(first, generate(model, prompt, seed=2, **options))
    assert model.training
    greedy = generate(model, prompt, max_new_tokens=20)
    assert torch.equal(greedy, generate(model, prompt, top_k=1, **options))


def test_draws_follow_the_distribution_that_the_settings_leave() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    scores = probabilities.log().expand(20000, 4)

    def shares(**settings: float) -> torch.Tensor:
        draw = Draw(generator=torch.Generator().manual_seed(0), **settings)
        return torch.bincount(draw(scores), minlength=4) / 20000

    sharp = probabilities**2 / (probabilities**2).sum()
    for found, expected in (
        (shares(), probabilities),
        (shares(temperature=0.5), sharp),
        (shares(top_k=2), torch.tensor([4 / 7, 3 / 7, 0, 0])),
        (shares(top_p=0.6), torch.tensor([4 / 7, 3 / 7, 0, 0])),
        (shares(top_p=0.71), torch.tensor([4 / 9, 3 / 9, 2 / 9, 0])),
        (shares(top_k=3, top_p=0.1), torch.tensor([1.0, 0, 0, 0])),
    ):
        assert torch.allclose(found, expected, atol=0.015)
        assert not found[expected == 0].any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"temperature": 0.5},
            "temperature, top_k, top_p, seed and generator have no effect without do_sample=True",
        ),
        (
            {"do_sample": True, "temperature": 0.0},
            "temperature: must be greater than 0, got 0.0",
        ),
        ({"do_sample": True, "top_k": 0}, "top_k: must be at least 1, got 0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p: must be in (0, 1], got 1.5"),
        ({"max_new_tokens": -1}, "max_new_tokens: must be at least 0, got -1"),
        (
            {"attention_mask": torch.tensor([[1, 1, 0]])},
            "attention_mask: prompts are padded on the left, but a row ends with padding",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict, text: str) -> None:
    assert raises(lambda: generate(ours(), torch.ones(1, 3).long(), **options)) == text
