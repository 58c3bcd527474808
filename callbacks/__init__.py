"""Callbacks by name. A callback whose module needs no torch is its own options dataclass."""

from __future__ import annotations

from callbacks.trackers import TRACKERS
from conf.plugins import lazy

CATALOG = {
    "best_model": "callbacks.best_model:BestModelCallback",
    "early_stopping": "callbacks.early_stopping:EarlyStoppingCallback",
    "memory": "callbacks.memory:MemoryCallback",
    "printer": "callbacks.printer:PrinterCallback",
    "profiler": "callbacks.profiler:ProfilerCallback",
    "progress": "callbacks.progress:ProgressCallback",
    "report": "callbacks.html_report.report:ReportCallback",
    "samples": "callbacks.samples:SamplesCallback",
    "statistics": "callbacks.statistics:StatisticsCallback",
    "throughput": "callbacks.throughput:ThroughputCallback",
    "underflow_overflow": "callbacks.underflow_overflow:UnderflowOverflowCallback",
    **TRACKERS,
}

_PUBLIC = {
    "BestModelCallback": "callbacks.best_model",
    "DebugUnderflowOverflow": "callbacks.underflow_overflow",
    "DefaultFlowCallback": "callbacks.default_flow",
    "EarlyStoppingCallback": "callbacks.early_stopping",
    "MemoryCallback": "callbacks.memory",
    "PrinterCallback": "callbacks.printer",
    "ProfilerCallback": "callbacks.profiler",
    "ProgressCallback": "callbacks.progress",
    "ReportCallback": "callbacks.html_report.report",
    "SamplesCallback": "callbacks.samples",
    "StatisticsCallback": "callbacks.statistics",
    "ThroughputCallback": "callbacks.throughput",
    "UnderflowOverflowCallback": "callbacks.underflow_overflow",
}
_PUBLIC |= {address.partition(":")[2]: address.partition(":")[0] for address in TRACKERS.values()}
__getattr__ = lazy(__name__, _PUBLIC)
__all__ = ["CATALOG", *_PUBLIC]
