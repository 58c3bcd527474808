"""Seeds, generators and threads; and the two signals that end a run."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers.trainer_utils as reference
from safetensors.torch import load_file, save_file

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
    seeding.set_seed(7)
    first = torch.rand(3)
    seeding.set_seed(7)
    assert torch.equal(first, torch.rand(3))


def everything() -> list[float]:
    """What torch, Python and numpy draw next, normal numbers in odd counts among it."""
    return [
        *torch.rand(3).tolist(),
        *(random.random(), random.gauss(), random.randrange(10**9)),
        *np.random.rand(3).tolist(),
        *np.random.standard_normal(3).tolist(),
    ]


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_seeds_are_the_reference_s(seed: int) -> None:
    reference.set_seed(seed)
    wanted = everything()
    seeding.set_seed(seed)
    assert everything() == wanted


def test_a_seed_may_be_larger_than_numpy_takes() -> None:
    seeding.set_seed(2**62 + 1)
    first = everything()
    seeding.set_seed(2**62 + 1)
    assert everything() == first


def test_ranks_differ_for_python_and_numpy_too() -> None:
    seeding.seed_rank(3, 0)
    first = everything()
    seeding.seed_rank(3, 1)
    assert not set(first) & set(everything())


@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_generators_go_on_where_they_were(drawn: int, tmp_path: Path) -> None:
    seeding.seed_rank(3, 0)
    for _ in range(drawn):  # also with the second half of a pair of normal numbers left over
        everything()
    save_file(seeding.generator_states(CPU), tmp_path / "rng.safetensors")
    first = everything()
    torch.rand(100), random.gauss(), np.random.standard_normal(100)
    seeding.restore_generators(load_file(tmp_path / "rng.safetensors"), CPU)
    assert everything() == first


def test_a_left_over_normal_number_is_kept_and_its_absence_too() -> None:
    random.seed(1), np.random.seed(1)
    without = seeding.generator_states(CPU)
    random.gauss(), np.random.standard_normal()
    with_one = seeding.generator_states(CPU)
    wanted = random.gauss(), np.random.standard_normal()
    assert {name: len(with_one[name]) for name in ("python", "numpy")} == {"python": 626, "numpy": 626}
    for states, is_left_over in ((without, False), (with_one, True)):
        seeding.restore_generators(states, CPU)
        assert (random.getstate()[2] is not None) == is_left_over
        assert np.random.get_state(legacy=False)["has_gauss"] == is_left_over
    assert (random.gauss(), np.random.standard_normal()) == wanted


def test_a_checkpoint_without_the_new_states_restores_torch_s() -> None:
    seeding.seed_rank(3, 0)
    states = {"cpu": torch.get_rng_state()}
    first = torch.rand(3)
    random.seed(5), np.random.seed(5)
    wanted = random.random(), np.random.rand()
    random.seed(5), np.random.seed(5)
    seeding.restore_generators(states, CPU)
    assert torch.equal(torch.rand(3), first)
    assert (random.random(), np.random.rand()) == wanted


def flags() -> dict[str, object]:
    return {
        "enabled": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        **{name: os.environ.get(name) for name in seeding.DETERMINISTIC},
    }


@pytest.fixture
def flags_as_they_were() -> Iterator[None]:
    before = flags()
    yield
    torch.use_deterministic_algorithms(bool(before["enabled"]), warn_only=bool(before["warn_only"]))
    torch.backends.cudnn.deterministic = bool(before["cudnn.deterministic"])
    torch.backends.cudnn.benchmark = bool(before["cudnn.benchmark"])


@pytest.mark.parametrize("warn_only", [False, True])
@pytest.mark.usefixtures("flags_as_they_were")
def test_full_determinism_is_the_reference_s(warn_only: bool) -> None:
    torch.backends.cudnn.benchmark = True
    reference.enable_full_determinism(11, warn_only=warn_only)
    wanted, drawn = flags(), everything()
    for name in seeding.DETERMINISTIC:
        del os.environ[name]
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    before = flags()
    with seeding.full_determinism(11, warn_only=warn_only):
        assert flags() == wanted
        assert everything() == drawn
    assert flags() == before


@pytest.mark.usefixtures("flags_as_they_were")
def test_full_determinism_gives_back_what_was_set_and_what_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    before = flags()
    with pytest.raises(KeyError), seeding.full_determinism(1):
        raise KeyError
    assert flags() == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("flags_as_they_were")
def test_deterministic_refuses_what_has_no_such_kernel() -> None:
    torch.use_deterministic_algorithms(False)
    values, places = torch.zeros(3), torch.zeros(3, dtype=torch.long)
    seeding.set_seed(1)
    values.put_(places, torch.ones(3))
    seeding.set_seed(1, deterministic=True)
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        values.put_(places, torch.ones(3))


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
