"""How much memory each stage of a run took: ``{init,train,eval,test}_mem_{cpu,gpu}_{alloc,peaked}_delta``.

In bytes. ``alloc``: what was held at the end beyond the beginning. ``peaked``: what was held at the highest
point beyond the end. Their sum is what the stage needed. The CPU's is the resident set of this process, read
every few milliseconds by a thread, so that a short peak may be missed; the GPU's is torch's own count on the
current device. Source: reference page main_classes/trainer, ``log_metrics``.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from conf.errors import ConfigError

_SECONDS_BETWEEN = 0.01  # readings of the resident set


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of one memory at the begin and the end of a stage, and the most in between."""

    begin: int
    end: int
    peak: int


class MemoryMetrics:
    """Measures the stages of a run; where it is not enabled it does nothing.

    A stage within a stage, as an evaluation during the training, is counted to the outer one. Beginning and
    ending a stage collects garbage and empties the GPU's cache. Raises ``ConfigError`` without ``psutil``.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._open = False
        self._measured: dict[str, dict[str, Usage]] = {}
        if enabled:
            self._read_cpu = _resident_set()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block as stage ``name``; nothing is kept of one that raises."""
        if not self.enabled or self._open:
            yield
            return
        self._open = True
        on_gpu = torch.cuda.is_available()
        try:
            _clean(on_gpu)
            gpu = torch.cuda.memory_allocated() if on_gpu else 0
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            cpu = self._read_cpu()
            with _Peak(self._read_cpu) as peak:
                yield
            _clean(on_gpu)
            usage = {"cpu": Usage(begin=cpu, end=self._read_cpu(), peak=peak.bytes)}
            if on_gpu:
                end, highest = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
                usage["gpu"] = Usage(begin=gpu, end=end, peak=highest)
            self._measured[name] = usage
        finally:
            self._open = False

    def metrics(self, name: str) -> dict[str, int]:
        """What stage ``name`` took, told once; the first to be told brings those of ``init`` along.

        Empty while a stage is open, and where nothing was measured.
        """
        if self._open or name not in self._measured:
            return {}
        metrics: dict[str, int] = {}
        init = self._measured.pop("init", {})
        for stage, usages in (("init", init), (name, self._measured.pop(name, {}))):
            for memory, usage in usages.items():
                metrics[f"{stage}_mem_{memory}_alloc_delta"] = usage.end - usage.begin
                metrics[f"{stage}_mem_{memory}_peaked_delta"] = max(0, usage.peak - usage.end)
        return metrics | {f"before_init_mem_{memory}": usage.begin for memory, usage in init.items()}


class _Peak:
    """The highest reading while the block runs."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory peak", daemon=True)
        self.bytes = 0

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN):
            self.bytes = max(self.bytes, self._read())

    def __enter__(self) -> _Peak:
        self.bytes = self._read()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._read())


def _clean(on_gpu: bool) -> None:
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()


def _resident_set() -> Callable[[], int]:
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigError(
            "logging.skip_memory_metrics: false needs psutil, which is not installed; `pip install psutil`, "
            "or leave it true."
        ) from None
    process = psutil.Process()
    return lambda: process.memory_info().rss
