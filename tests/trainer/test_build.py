"""What is refused between a judged configuration and a run, as only the parts themselves know it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from trainer.objectives import CATALOG
from trainer.objectives.causal_lm import CausalLM


class Unsmoothed(CausalLM):
    """A method whose loss is over no vocabulary."""

    smooths_labels = False


def test_a_method_that_cannot_smooth_its_labels(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*tiny, "check=true").status == 0, "the data are there: another process makes them"
    options = "trainer.objectives.options:CausalLMOptions"
    monkeypatch.setitem(CATALOG, "unsmoothed", (options, "tests.trainer.test_build:Unsmoothed"))
    words = ("objective.name=unsmoothed", "check=true")
    assert train(*tiny, *words).status == 0
    done = train(*tiny, *words, "training.label_smoothing_factor=0.1")
    assert (done.status, str(done.error)) == (
        2,
        "training.label_smoothing_factor: 0.1 cannot be used with unsmoothed, whose loss is over no "
        "vocabulary or set of classes; leave it out.",
    )


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("loss", (), None),
        ("eval_loss", (), None),
        ("eval_perplexity", ("metrics.perplexity={}",), None),
        ("perplexity", (), "there is no 'perplexity'; known are loss."),
        ("chat_loss", (), "there is no 'chat_loss'; did you mean 'loss'?"),
        ("eval_two_loss", ("two",), None),
        ("three_loss", ("two",), "there is no 'three_loss'; did you mean 'two_loss'?"),
    ],
)
def test_the_metric_that_tells_the_best_is_one_that_is_measured(
    name: str, more: Sequence[str], said: str | None, train: Any, tiny: Sequence[str]
) -> None:
    if more == ("two",):
        second = "data.validation.two"
        more = (f"{second}.path=data/chat/validation.jsonl", f"{second}.format=chat")
    done = train(*tiny, f"evaluation.metric_for_best_model={name}", *more, "check=true")
    expected = "None" if said is None else f"evaluation.metric_for_best_model: {said}"
    assert str(done.error) == expected
