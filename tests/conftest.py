"""Shared by all tests: one thread, one token cache, the command line run in this process or in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before anything loads torch; results are equal for equal threads only

from conf import logging
from conf.errors import StockpotError
from conf.plugins import resolve
from trainer import cli
from trainer.plugins import CATALOGS

ROOT = Path(__file__).resolve().parents[1]

# The shipped chat recipe in small: two steps of a model with few parameters, its data cached once used.
TINY = (
    "+recipe=sft_llama",
    "model.preset=tiny",
    "processor.tokenizer.vocab_size=512",
    "data.max_length=128",
    "data.max_truncated=1",
    "training.max_steps=2",
    "evaluation.per_device_eval_batch_size=32",
    "callbacks.samples=null",
)


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of tokens that all tests share."""
    folder = tmp_path_factory.mktemp("token-cache")
    os.environ["STOCKPOT_CACHE"] = str(folder)
    os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))  # read when it is imported
    return folder


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """Give back what a run changes here: arguments, environment, verbosity, what plug-ins added."""
    arguments, environment, verbosity = list(sys.argv), dict(os.environ), logging.get_verbosity()
    modules, catalogs = set(sys.modules), {address: dict(resolve(address)) for address in CATALOGS.values()}
    yield
    sys.argv[:] = arguments
    logging.set_verbosity(verbosity)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for address, entries in catalogs.items():
        for added in resolve(address).keys() - entries.keys():
            del resolve(address)[added]
    installed = (sys.prefix, sys.base_prefix, str(ROOT))
    for name in sys.modules.keys() - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and not file.startswith(installed):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """The words of a run of two steps that takes a fraction of a second; words that follow win."""
    return TINY


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What came of a command line: its exit status, what it printed, and (in this process) the run itself."""

    status: int
    out: str
    err: str
    folder: Path
    error: StockpotError | None = None
    run: Any = None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def results(self) -> dict[str, Any]:
        """The content of ``all_results.json``."""
        return json.loads((self.folder / "all_results.json").read_text())


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """``train(*words)``: the command line in this process, its current folder the test's own.

    The run folder is ``run`` in there unless the words say otherwise. An error the user can cause is not
    raised but returned, with its exit status.
    """
    monkeypatch.chdir(tmp_path)

    def run_here(*words: str) -> Finished:
        from trainer import loop

        seen: list[Any] = []
        original = loop.train

        def watched(run: Any) -> Any:
            seen.append(run)
            return original(run)

        capsys.readouterr()
        error = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train", watched)
            try:
                cli.run_command(_with_folder(words))
            except StockpotError as raised:
                error = raised
        printed = capsys.readouterr()
        return Finished(
            status=error.exit_status if error else 0,
            out=printed.out,
            err=printed.err,
            folder=_folder_of(words, tmp_path),
            error=error,
            run=seen[0] if seen else None,
        )

    return run_here


@pytest.fixture
def train_in_process_of_its_own(tmp_path: Path) -> Callable[..., Finished]:
    """``train_in_process_of_its_own(*words, cwd=..., env=...)``: the same through ``python -m trainer``."""

    def run_there(
        *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, adds_folder: bool = True
    ) -> Finished:
        given = _with_folder(words) if adds_folder else list(words)
        done = subprocess.run(
            [sys.executable, "-m", "trainer", *given],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Finished(
            status=done.returncode,
            out=done.stdout,
            err=done.stderr,
            folder=_folder_of(words, cwd or tmp_path),
        )

    return run_there


def _with_folder(words: Sequence[str]) -> list[str]:
    decided = any(word.startswith(("output_dir=", "resume=")) for word in words)
    return [*words, *([] if decided else ["output_dir=run"])]


def _folder_of(words: Sequence[str], here: Path) -> Path:
    given = [word.partition("=")[2] for word in words if word.startswith("output_dir=")]
    resumed = [word.partition("=")[2] for word in words if word.startswith("resume=")]
    if given:
        return here / given[-1]
    return (here / resumed[-1]).parent if resumed else here / "run"
