"""Shared by the tests of resuming, and of those that ask the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import transformers

from tests.trainer.saved_runs import SHORT, assert_same_checkpoint, digest, lines, untimed


@pytest.fixture(scope="module")
def quiet_reference() -> Iterator[None]:
    """The reference says errors only, in this module's tests."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    yield
    transformers.utils.logging.set_verbosity(before)


@pytest.fixture
def resumes(train: Any, tiny: Sequence[str]) -> Callable[..., Any]:
    """``resumes(*words)``: train, go on from the first checkpoint, and hold the two against each other."""

    def stopped_and_resumed(*words: str) -> Any:
        whole = train(*tiny, *SHORT, *words)
        assert whole.status == 0, whole.error
        model, told, results = digest(whole.folder / "model.safetensors"), lines(whole.folder), whole.results
        resumed = train("resume=run/checkpoint-3")
        assert resumed.status == 0, resumed.error
        assert "going on from run/checkpoint-3 (step 3)" in resumed.out
        last = whole.folder / "checkpoint-6"
        assert_same_checkpoint(last, whole.folder / "set-aside-checkpoint-6-1")
        assert digest(whole.folder / "model.safetensors") == model
        assert lines(whole.folder) == told
        assert untimed(resumed.results) == untimed(results)
        return resumed

    return stopped_and_resumed
