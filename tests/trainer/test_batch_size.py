"""Micro-batches that shrink when memory runs out: the step and its result stay what they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.trainer.faults import after_backward, run_out_of_memory
from tests.trainer.saved_runs import distance, lines
from trainer.batch_size import is_out_of_memory, largest_below
from trainer.ranks.ranks import Ranks

WORDS = (
    "data.packing=false",
    "training.max_steps=4",
    "training.per_device_train_batch_size=6",
    "training.auto_find_batch_size=true",
    "optimizer.adam_epsilon=1e-6",
    "logging.logging_steps=1",
    "evaluation.eval_steps=4",
    "callbacks.progress=null",
)


def test_the_result_is_that_of_the_size_asked_for(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = train(*tiny, *WORDS, "output_dir=roomy")
    with monkeypatch.context() as patch:
        after_backward(patch, run_out_of_memory, {2, 4})
        tight = train(*tiny, *WORDS, "output_dir=tight")
    assert tight.status == 0, tight.error
    assert "memory ran out with micro-batches of 6; going on with 3." in tight.out
    assert "memory ran out with micro-batches of 3; going on with 2." in tight.out
    assert (roomy.run.state.train_batch_size, tight.run.state.train_batch_size) == (6, 2)
    assert distance(roomy.folder, tight.folder) <= 1e-6
    for one, other in zip(lines(roomy.folder), lines(tight.folder), strict=True):
        slots = one.pop("tokens_slots", 0), other.pop("tokens_slots", 0)
        assert slots[1] <= slots[0], "smaller micro-batches are padded less"
        assert other.keys() == one.keys()
        other["total_flos"] = one["total_flos"] = 0
        assert other == pytest.approx(one, rel=1e-5)
    assert tight.run.state.num_input_tokens_seen == roomy.run.state.num_input_tokens_seen, "counted once"


def test_a_row_that_does_not_fit_is_an_error(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after_backward(monkeypatch, run_out_of_memory)
    done = train(*tiny, *WORDS)
    assert done.status == 2
    assert str(done.error) == (
        "training.auto_find_batch_size: memory does not even suffice for a micro-batch of 1 on each rank; "
        "take shorter rows, a smaller model, or training.gradient_checkpointing."
    )


def test_other_errors_and_runs_that_did_not_ask_are_not_helped(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(ranks: Ranks) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with monkeypatch.context() as patch:
        after_backward(patch, break_down)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            train(*tiny, *WORDS)
    after_backward(monkeypatch, run_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        train(*tiny, *WORDS, "training.auto_find_batch_size=false", "output_dir=other")


def test_memory_that_an_update_lacks_is_not_found_by_smaller_batches(
    train: Any, tiny: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be half updated: to take the step again would train them twice."""

    def full(self: Ranks, optimizer: Any) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Ranks, "update", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(*tiny, *WORDS)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("full"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("expected scalar type Half"), False),
        (ValueError("out of range"), False),
    ],
)
def test_what_counts_as_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_so_when_the_host_is_full() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("size", "rows", "expected"), [(8, 12, 6), (6, 6, 3), (5, 7, 1), (2, 3, 1), (1, 4, None)]
)
def test_sizes_are_divisors(size: int, rows: int, expected: int | None) -> None:
    assert largest_below(size, rows) == expected
