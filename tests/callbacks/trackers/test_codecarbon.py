"""CodeCarbon with the country given, which keeps it off the network."""

from __future__ import annotations

import csv
import socket
import threading
from pathlib import Path
from typing import Any

import codecarbon
import pytest

from callbacks.trackers.codecarbon import CodeCarbonCallback
from tests.callbacks.trackers.test_tracker import heard_by, whole_training


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no noise, no wait for a first measurement."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODECARBON_LOG_LEVEL", "critical")
    monkeypatch.delenv("CODECARBON_COUNTRY_ISO_CODE", raising=False)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "emissions.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_line_of_the_emissions_and_another_of_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    whole_training(heard_by(CodeCarbonCallback(country_iso_code="deu", tracking_mode="process"), tmp_path))
    (line,) = lines(tmp_path)
    assert (line["country_iso_code"], line["tracking_mode"]) == ("DEU", "process")
    energy = sum(float(line[f"{part}_energy"]) for part in ("cpu", "gpu", "ram"))
    assert float(line["energy_consumed"]) == pytest.approx(energy) != 0
    monkeypatch.setenv("CODECARBON_COUNTRY_ISO_CODE", "FRA")
    tell = heard_by(CodeCarbonCallback(), tmp_path, global_step=4)
    tell("on_train_begin")
    tell.close()
    tell.close()
    assert [line["country_iso_code"] for line in lines(tmp_path)] == ["DEU", "FRA"], "of a failed run, too"
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)  # a timer that was told to stop
        assert not thread.is_alive()


def test_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr("callbacks.trackers.codecarbon.logger.info", lambda *words: said.append(words))
    monkeypatch.setattr(codecarbon.OfflineEmissionsTracker, "stop", lambda self: 0.25)
    tell = heard_by(CodeCarbonCallback(country_iso_code="DEU"), tmp_path)
    tell("on_train_begin")
    tracker = tell.callbacks[0]._tracker  # type: ignore[attr-defined]
    tell("on_train_end")
    tell.close()
    monkeypatch.undo()
    tracker.stop()
    assert [words[0] % words[1:] for words in said] == [
        "codecarbon: 0.250000 kg of CO2 equivalents were emitted."
    ]


def test_without_a_country_it_asks_where_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []

    class Online:
        def __init__(self, **given: Any) -> None:
            made.append(given)

        def start(self) -> None: ...

        def stop(self) -> None: ...

    monkeypatch.setattr(codecarbon, "EmissionsTracker", Online)
    whole_training(heard_by(CodeCarbonCallback(), tmp_path))
    assert made == [{"output_dir": str(tmp_path)}], "all else is CodeCarbon's own"


def test_what_is_no_country_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^country_iso_code: 'Germany' was given; three letters, as in 'DEU'"
    ):
        CodeCarbonCallback(country_iso_code="Germany")
