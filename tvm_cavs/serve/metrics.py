"""What a server counts -> the text that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

PREFIX = "tvm_cavs"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
COUNTERS = {
    "requests_total": "Requests by the status of their answers.",
    "graphs_total": "Graphs that were answered.",
    "vertices_total": "Vertices that were run, with those of graphs that nobody waited for.",
    "steps_total": "Times that kernels were called for all that were ready.",
    "reloads_total": "Times that the model was loaded again, by result.",
}
HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "request_seconds": ("From a request's first byte to its answer.", SECONDS),
    "queue_seconds": ("From a request's arrival until its first vertices ran.", SECONDS),
    "step_seconds": ("One step.", SECONDS),
    "batch_vertices": ("Vertices that ran in one step.", SIZES),
    "batch_graphs": ("Graphs in one step.", SIZES),
    "graph_levels": ("Levels of a graph.", SIZES),
}


class Metrics:
    """Counters and histograms; any thread may count."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTERS}
        self._held = {name: [0] * (len(ends) + 1) for name, (_, ends) in HISTOGRAMS.items()}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)

    def add(self, name: str, n: int = 1, label: str = "") -> None:
        """Count; `label` is for instance `status="200"`."""
        with self._lock:
            self._counts[name][label] += n

    def observe(self, name: str, *values: float) -> None:
        """Put values into a histogram."""
        ends = HISTOGRAMS[name][1]
        with self._lock:
            for value in values:
                self._held[name][bisect_left(ends, value)] += 1
                self._sums[name] += value

    def count(self, name: str, label: str = "") -> int:
        """What a counter has reached."""
        with self._lock:
            return self._counts[name][label]

    def mean(self, name: str) -> float:
        """Of a histogram; 0 without values."""
        with self._lock:
            return self._sums[name] / max(1, sum(self._held[name]))

    def text(self, now: Mapping[str, tuple[str, float]]) -> str:
        """All of it; `now` are values of this moment with what they are."""
        with self._lock:
            return "\n".join([*self._lines(), *_gauges(now), ""])

    def _lines(self) -> Iterator[str]:
        for name, what in COUNTERS.items():
            yield from _head(name, what, "counter")
            for label, n in sorted(self._counts[name].items()) or [("", 0)]:
                yield f"{PREFIX}_{name}{f'{{{label}}}' if label else ''} {n}"
        for name, (what, ends) in HISTOGRAMS.items():
            yield from _head(name, what, "histogram")
            total = 0
            for end, n in zip([*map(str, ends), "+Inf"], self._held[name], strict=True):
                total += n
                yield f'{PREFIX}_{name}_bucket{{le="{end}"}} {total}'
            yield f"{PREFIX}_{name}_sum {self._sums[name]}"
            yield f"{PREFIX}_{name}_count {total}"


def _gauges(now: Mapping[str, tuple[str, float]]) -> Iterator[str]:
    for name, (what, value) in now.items():
        yield from _head(name, what, "gauge")
        yield f"{PREFIX}_{name} {value}"


def _head(name: str, what: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {what}"
    yield f"# TYPE {PREFIX}_{name} {kind}"
