"""Seeds, generators and threads; and the two signals that end a run."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from trainer import seeding
from trainer.interrupt import Interrupt

CPU = torch.device("cpu")


def draws(seed: int, rank: int, step: int = 0) -> list[float]:
    seeding.seed_rank(seed, rank, step)
    return torch.rand(3).tolist()


def test_each_rank_and_step_has_a_stream_of_its_own() -> None:
    streams = [draws(seed, rank, step) for seed in (1, 2) for rank in (0, 1) for step in (0, 5)]
    assert all(first != other for i, first in enumerate(streams) for other in streams[i + 1 :])
    assert draws(1, 0) == draws(1, 0)


def test_weights_are_drawn_alike_everywhere() -> None:
    seeding.seed_weights(7)
    first = torch.rand(3)
    seeding.seed_weights(7)
    assert torch.equal(first, torch.rand(3))


def test_a_generator_goes_on_where_it_was() -> None:
    seeding.seed_rank(3, 0)
    states = {name: state.clone() for name, state in seeding.generator_states(CPU).items()}
    first = torch.rand(5)
    torch.rand(100)
    seeding.restore_generators(states, CPU)
    assert torch.equal(first, torch.rand(5))


@pytest.mark.parametrize(
    ("given", "variable", "ranks", "wanted"),
    [(3, "1", 1, 3), (None, "2", 1, 2), (None, None, 1, 6), (None, None, 4, 1)],
)
def test_threads(
    given: int | None, variable: str | None, ranks: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS")
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    try:
        assert seeding.set_threads(given, ranks) == wanted
        assert torch.get_num_threads() == wanted
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_handlers_come_back(number: int) -> None:
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert interrupt.signal_number == 0
        signal.raise_signal(number)
        assert interrupt.signal_number == number
        signal.raise_signal(signal.SIGTERM)  # asked again, politely
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with Interrupt():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_in_another_thread_no_handler_can_be_set_and_none_is() -> None:
    seen = []

    def enter() -> None:
        with Interrupt() as interrupt:
            seen.append(interrupt.signal_number)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [0]
