"""Mixtures of experts: every way to compute them, the choice, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.afmoe import modeling_afmoe

from conf.errors import ConfigError
from models.layers.experts import EXPERTS, Experts, MixtureOfExperts, TokenChoiceRouter, expert_load
from tests.models.oracle import close

TOKENS, HIDDEN, WIDTH, COUNT, CHOSEN = 21, 16, 24, 6, 2


def layer(implementation: str | None, width: int = WIDTH) -> Experts:
    experts = Experts(COUNT, HIDDEN, width, "silu", implementation)
    experts.init_weights(0.3, torch.Generator().manual_seed(0))
    return experts


def routed(*, unused: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their experts without the last ``unused`` of them, and weights."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator, requires_grad=True)
    scores = torch.rand(TOKENS, COUNT - unused, generator=generator)
    weights = torch.rand(TOKENS, CHOSEN, generator=generator, requires_grad=True)
    return x, scores.topk(CHOSEN).indices, weights


def gradients(experts: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> list[Tensor]:
    out = experts(x, chosen, weights)
    (out**3).sum().backward()
    return [out, x.grad, weights.grad, experts.gate_up_proj.grad, experts.down_proj.grad]


def independent(implementation: str, experts: Experts) -> nn.Module:
    config = transformers.AfmoeConfig(
        hidden_size=HIDDEN, moe_intermediate_size=WIDTH, num_experts=COUNT, num_experts_per_tok=CHOSEN
    )
    config._experts_implementation = implementation
    oracle = modeling_afmoe.AfmoeExperts(config)
    oracle.load_state_dict(experts.state_dict())
    return oracle


@pytest.mark.parametrize("implementation", [*EXPERTS, None])
def test_every_implementation_equals_the_oracle(implementation: str | None) -> None:
    experts = layer(implementation)
    found = gradients(experts, *routed())
    for name in EXPERTS:
        expected = gradients(independent(name, experts), *routed())
        assert all(close(a, b) for a, b in zip(found, expected, strict=True)), name
    assert not found[3][-1].any(), "an expert without a token gets a gradient of zeros"
    assert not found[4][-1].any()
    assert found[3][:-1].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("implementation", EXPERTS)
def test_autocast_computes_in_half_precision_and_sums_in_fp32(implementation: str) -> None:
    experts, (x, chosen, weights) = layer(implementation), routed()
    expected = experts(x, chosen, weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts(x, chosen, weights)
    assert found.dtype is torch.float32
    assert not torch.equal(found, expected)
    assert close(found, expected, 3e-2)
    half = layer(implementation).bfloat16()
    assert half(x.bfloat16(), chosen, weights.bfloat16()).dtype is torch.bfloat16


def test_only_the_loop_waits_for_the_device() -> None:
    """On the meta device there is nothing to wait for: whoever asks for a number gets an error."""
    x, chosen, weights = (value.to("meta") for value in routed())
    for name in ("batched_mm", "grouped_mm"):
        out = layer(name).to("meta", torch.bfloat16)(x.bfloat16(), chosen, weights)
        assert out.shape == (TOKENS, HIDDEN)
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer("eager").to("meta", torch.bfloat16)(x.bfloat16(), chosen, weights)


def test_what_cannot_be_grouped_is_looped_or_refused() -> None:
    x, chosen, weights = routed()
    assert layer(None)._implementation() == "grouped_mm"
    odd = layer(None, width=20)
    assert odd._implementation() == "eager"
    assert odd(x, chosen, weights).shape == x.shape
    with pytest.raises(ConfigError, match=r"grouped_mm needs widths that 8 divides.* 16 and 20; take eager"):
        odd.set_implementation("grouped_mm")
    double = layer(None).double()
    assert double(x.double(), chosen, weights.double()).dtype is torch.float64
    double.set_implementation("grouped_mm")
    with pytest.raises(ConfigError, match="grouped_mm cannot be used, torch has none in float64"):
        double(x.double(), chosen, weights.double())
    with pytest.raises(ConfigError, match="there is no 'groupedmm'; did you mean 'grouped_mm'"):
        layer("groupedmm")


def test_a_compiled_layer_takes_what_can_be_compiled() -> None:
    experts, inputs = layer(None), routed()
    expected = experts(*inputs)
    assert close(torch.compile(experts, backend="eager")(*inputs), expected, 1e-6)


def block(**options: Any) -> MixtureOfExperts:
    sizes = {"experts": COUNT, "per_token": CHOSEN, "shared": 2, "scale": 2.5}
    made = MixtureOfExperts(HIDDEN, WIDTH, "silu", **{**sizes, **options})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made


def test_the_bias_takes_part_in_the_choice_alone() -> None:
    router = block().router
    x, bias = torch.randn(TOKENS, HIDDEN), torch.zeros(COUNT)
    logits, weights, chosen = router(x, bias)
    assert torch.equal(chosen.sort().values, logits.topk(CHOSEN).indices.sort().values)
    bias[3] = 1.0  # more than any score can be apart
    _, biased, forced = router(x, bias)
    assert (forced == 3).any(dim=1).all()
    both = chosen.sort().values.eq(forced.sort().values).all(dim=1)
    assert both.any()
    assert not both.all()
    assert torch.equal(weights[both].sort().values, biased[both].sort().values)
    assert close(biased.sum(dim=1), torch.full((TOKENS,), 2.5), 1e-6)
    scores = logits.sigmoid().gather(1, forced)
    assert close(biased, 2.5 * scores / scores.sum(dim=1, keepdim=True), 1e-6)


def test_a_fresh_router_prefers_no_expert() -> None:
    router = TokenChoiceRouter(HIDDEN, COUNT, CHOSEN, 1.0)
    router.gate.init_weights(1.0)
    logits, weights, _ = router(torch.randn(3, HIDDEN), torch.zeros(COUNT))
    assert not logits.any()
    assert torch.equal(weights, torch.full((3, CHOSEN), 0.5))


def test_the_bias_learns_nothing_and_everything_else_does() -> None:
    experts = block()
    out, logits, chosen = experts(torch.randn(2, 5, HIDDEN))
    assert (out.shape, logits.shape, chosen.shape) == ((2, 5, HIDDEN), (10, COUNT), (10, CHOSEN))
    out.square().sum().backward()
    assert [name for name, parameter in experts.named_parameters() if parameter.grad is None] == []
    assert "expert_bias" in experts.state_dict()
    assert experts.expert_bias.grad is None


def test_load_counts_real_tokens() -> None:
    chosen = torch.tensor([[0, 1], [1, 3], [3, 1], [0, 2]])
    assert expert_load(chosen, 5).tolist() == [2, 3, 1, 2, 0]
    assert expert_load(chosen, 5, torch.tensor([True, True, False, False])).tolist() == [1, 2, 0, 1, 0]
