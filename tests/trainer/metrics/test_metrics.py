"""Streaming metrics against the same figures computed on everything at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conf.errors import ConfigError
from conf.plugins import options_of, thing_of
from trainer.metrics import CATALOG
from trainer.metrics.metric import Metric
from trainer.objectives.objective import Prediction


def made(name: str) -> Metric:
    return thing_of(CATALOG, name, "metrics")(options_of(CATALOG, name, "metrics")())


def seen(logits: Tensor, labels: Tensor | None, *, next_token: bool = False) -> Prediction:
    return Prediction(terms={}, weights={}, logits=logits, labels=labels, next_token=next_token)


def streamed(name: str, parts: Sequence[Sequence[Prediction]]) -> dict[str, float]:
    """The figure over several ranks, each with its batches."""
    metrics = []
    for predictions in parts:
        metric = made(name)
        for prediction in predictions:
            metric.update(prediction)
        metrics.append(metric)
    return metrics[0].compute([metric.state() for metric in metrics])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_accuracy_of_tokens_is_that_of_everything_at_once(ranks: int) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 6, 4, generator=random)
    labels = torch.randint(0, 4, (12, 6), generator=random)
    labels[torch.rand(12, 6, generator=random) < 0.3] = -100
    for ahead in (True, False):
        batches = [
            seen(a, b, next_token=ahead) for a, b in zip(logits.split(2), labels.split(2), strict=True)
        ]
        guesses, truth = logits.argmax(-1).numpy(), labels.numpy()
        if ahead:
            guesses, truth = guesses[:, :-1], truth[:, 1:]
        expected = np.mean(guesses[truth != -100] == truth[truth != -100])
        got = streamed("accuracy", [batches[rank::ranks] for rank in range(ranks)])
        assert got == {"accuracy": pytest.approx(expected, rel=1e-12)}
        assert 0 < expected < 1


def test_accuracy_of_rows() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert streamed("accuracy", [[seen(logits, torch.tensor([1, 0, 0, -100]))]]) == {"accuracy": 2 / 3}


@pytest.mark.parametrize("name", CATALOG)
def test_nothing_counted_is_no_figure(name: str) -> None:
    unlabelled = Prediction(terms={}, weights={}, logits=torch.ones(1, 2))
    assert streamed(name, [[unlabelled], []]) == {}


@pytest.mark.parametrize("name", CATALOG)
def test_a_state_does_not_grow_and_is_forgotten(name: str) -> None:
    def batch() -> Prediction:
        return Prediction(
            terms={"loss": torch.tensor(3.0)},
            weights={"loss": 2},
            logits=torch.ones(2, 3),
            labels=torch.zeros(2, dtype=torch.int64),
        )

    metric = made(name)
    empty = metric.state()
    metric.update(batch())
    first = metric.state()
    for _ in range(100):
        metric.update(batch())
    assert all(isinstance(number, int | float) for number in metric.state())
    assert len(metric.state()) == len(first)
    assert metric.compute([metric.state()]) == metric.compute([first])
    assert tuple(metric.compute([first])) == metric.names
    metric.reset()
    assert metric.state() == empty


def loss(total: float, count: int) -> Prediction:
    return Prediction(terms={"loss": torch.tensor(total)}, weights={"loss": count})


def test_perplexity_weighs_by_tokens() -> None:
    got = streamed("perplexity", [[loss(3.0, 1), loss(5.0, 9)], [loss(2.0, 10)]])
    assert got == {"perplexity": pytest.approx(math.exp(10.0 / 20))}


def test_perplexity_keeps_nan_and_overflows_to_infinity() -> None:
    assert math.isnan(streamed("perplexity", [[loss(1.0, 1), loss(math.nan, 1)]])["perplexity"])
    assert streamed("perplexity", [[loss(1e6, 1)]])["perplexity"] == math.inf


@pytest.mark.parametrize(
    ("logits", "labels", "text"),
    [
        ((torch.ones(1, 2), torch.ones(1)), torch.zeros(1, dtype=torch.int64), "tuple and Tensor were given"),
        (torch.ones(2, 3), torch.ones(2, 3), r"labels \(2, 3\) of torch.float32 .* scores \(2, 3\)"),
        (torch.ones(2, 1), torch.ones(2), "do not name one class"),
    ],
)
def test_accuracy_refuses_what_is_no_class(logits: Any, labels: Tensor, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"metrics\.accuracy: .*{text}"):
        made("accuracy").update(seen(logits, labels))


def test_perplexity_refuses_a_method_without_a_loss_term() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.perplexity: .* it has mlm, nsp; leave"):
        made("perplexity").update(
            Prediction(terms=dict.fromkeys(["mlm", "nsp"], torch.ones(())), weights={"mlm": 1, "nsp": 1})
        )
