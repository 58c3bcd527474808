"""Updates within the backward pass: when they are made, what norm is told, and when hooks are gone."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import nn

from trainer.optimizers.lomo import Lomo


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_weights_are_updated_in_the_backward_pass_and_gradients_let_go(model: nn.Linear) -> None:
    before = model.weight.detach().clone()
    inputs = torch.randn(5, 3)
    expected = before - 0.5 * inputs.sum(0)
    optimizer = Lomo(model.parameters(), lr=0.5)
    model(inputs).sum().backward()
    assert model.weight.grad is None
    assert model.bias.grad is None
    torch.testing.assert_close(model.weight.detach(), expected)
    after = model.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.weight, after)


def test_the_norm_is_that_of_all_gradients_since_it_was_last_asked_for(model: nn.Linear) -> None:
    inputs = torch.randn(5, 3)
    model(inputs).square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    wanted = torch.nn.utils.get_total_norm(gradients).item()
    model.zero_grad()
    optimizer = Lomo(model.parameters(), lr=0.0)
    assert optimizer.take_grad_norm() == 0
    model(inputs).square().sum().backward()
    assert optimizer.take_grad_norm() == pytest.approx(wanted, rel=1e-6)
    assert optimizer.take_grad_norm() == 0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_not_applied(model: nn.Linear, value: float) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = Lomo(model.parameters(), lr=0.5)
    (model(torch.randn(5, 3)) * torch.tensor([1.0, value])).sum().backward()
    for parameter, was in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.grad is None
    assert not math.isfinite(optimizer.take_grad_norm())
    model(torch.randn(5, 3)).sum().backward()
    assert math.isfinite(optimizer.take_grad_norm())
    assert not torch.equal(model.weight, before[0])


def test_a_loaded_state_brings_groups_that_are_heeded(model: nn.Linear) -> None:
    optimizer = Lomo(model.parameters(), lr=0.5)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.param_groups[0]["lr"] = 0.0
    before = model.weight.detach().clone()
    model(torch.randn(5, 3)).sum().backward()
    assert torch.equal(model.weight, before)


def test_a_released_optimizer_leaves_gradients_to_others(model: nn.Linear) -> None:
    optimizer = Lomo(model.parameters(), lr=0.5)
    optimizer.release()
    model(torch.randn(5, 3)).sum().backward()
    assert model.weight.grad is not None
    assert optimizer.take_grad_norm() == 0


def test_a_model_does_not_keep_an_optimizer_alive(model: nn.Linear) -> None:
    optimizer = Lomo(model.parameters(), lr=0.5)
    model(torch.randn(5, 3)).sum().backward()
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    model(torch.randn(5, 3)).sum().backward()
    assert model.weight.grad is not None


def test_a_closure_is_called_with_gradients_on(model: nn.Linear) -> None:
    optimizer = Lomo(model.parameters(), lr=0.5)

    def closure() -> float:
        loss = model(torch.ones(1, 3)).sum()
        loss.backward()
        return loss.item()

    before = model.weight.detach().clone()
    assert optimizer.step(closure) is not None
    torch.testing.assert_close(model.weight.detach(), before - 0.5)
