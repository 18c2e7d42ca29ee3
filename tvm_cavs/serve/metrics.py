"""What a server counts -> the text that Prometheus reads.

All processes of a server write into one shared memory, each into a row of its own: whichever is
asked adds the rows up, and what a process has counted outlives it.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from http import HTTPStatus
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
    "restarts_total": "Processes that had ended and were started again.",
}
LABELS = {
    "requests_total": tuple(f'status="{status.value}"' for status in HTTPStatus),
    "reloads_total": ('result="done"', 'result="failed"'),
}
HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "request_seconds": ("From a request's first byte to its answer.", SECONDS),
    "queue_seconds": ("From a request's arrival until its first vertices ran.", SECONDS),
    "step_seconds": ("One step.", SECONDS),
    "batch_vertices": ("Vertices that ran in one step.", SIZES),
    "batch_graphs": ("Graphs in one step.", SIZES),
    "graph_levels": ("Levels of a graph.", SIZES),
}
GAUGES = {
    "waiting_requests": "Requests that wait unread.",
    "open_requests": "Requests that are being answered.",
    "processes": "Processes that answer.",
    "start_time_seconds": "When the server started.",
}
WORD = 8  # bytes of a number


def _columns() -> dict[tuple[str, str], int]:
    """The place of each number in a row: of counters by label, gauges, and histograms' parts."""
    names = [(name, label) for name in COUNTERS for label in LABELS.get(name, ("",))]
    names += [(name, "") for name in GAUGES]
    for name, (_, ends) in HISTOGRAMS.items():
        names += [(name, str(k)) for k in range(len(ends) + 1)]
        names += [(name, "sum")]
    return {key: place for place, key in enumerate(names)}


COLUMNS = _columns()


class Metrics:
    """Counters, gauges and histograms; any thread may count.

    Args:
        n_processes: that count; several have a row each, and the last is of the one that forks
            them, which makes this.
    """

    def __init__(self, n_processes: int = 1) -> None:
        self.n_processes = n_processes
        n_rows = n_processes + (n_processes > 1)
        self._all = memoryview(mmap.mmap(-1, n_rows * len(COLUMNS) * WORD)).cast("d")
        self._lock = Lock()
        self.use(n_rows - 1)

    def use(self, row: int) -> None:
        """Count here from now on; what had this row before has ended, and answers nothing."""
        self._own = self._all[row * len(COLUMNS) : (row + 1) * len(COLUMNS)]
        for name in GAUGES:
            self.set(name, 0)

    def add(self, name: str, n: int = 1, label: str = "") -> None:
        """Count, up or in a gauge down; `label` is one of `LABELS`, where a counter has some."""
        place = COLUMNS[name, label]
        with self._lock:
            self._own[place] += n

    def set(self, name: str, value: float) -> None:
        """The part that this process has in a gauge."""
        self._own[COLUMNS[name, ""]] = value

    def observe(self, name: str, *values: float) -> None:
        """Put values into a histogram."""
        ends = HISTOGRAMS[name][1]
        first, total = COLUMNS[name, "0"], COLUMNS[name, "sum"]
        with self._lock:
            for value in values:
                self._own[first + bisect_left(ends, value)] += 1
                self._own[total] += value

    def count(self, name: str, label: str = "") -> int:
        """What a counter or a gauge has reached, of all processes."""
        return int(self._sum(name, label))

    def mean(self, name: str) -> float:
        """Of a histogram; 0 without values."""
        n = sum(self._sum(name, str(k)) for k in range(len(HISTOGRAMS[name][1]) + 1))
        return self._sum(name, "sum") / max(1, n)

    def text(self) -> str:
        """All of it."""
        return "\n".join([*self._counters(), *self._histograms(), *self._gauges(), ""])

    def _sum(self, name: str, label: str) -> float:
        return sum(self._all[COLUMNS[name, label] :: len(COLUMNS)])

    def _counters(self) -> Iterator[str]:
        for name, what in COUNTERS.items():
            yield from _head(name, what, "counter")
            found = [(label, self.count(name, label)) for label in LABELS.get(name, ("",))]
            for label, n in [each for each in found if each[1]] or [("", 0)]:
                yield f"{PREFIX}_{name}{f'{{{label}}}' if label else ''} {n}"

    def _histograms(self) -> Iterator[str]:
        for name, (what, ends) in HISTOGRAMS.items():
            yield from _head(name, what, "histogram")
            total = 0
            for k, end in enumerate([*map(str, ends), "+Inf"]):
                total += int(self._sum(name, str(k)))
                yield f'{PREFIX}_{name}_bucket{{le="{end}"}} {total}'
            yield f"{PREFIX}_{name}_sum {self._sum(name, 'sum')}"
            yield f"{PREFIX}_{name}_count {total}"

    def _gauges(self) -> Iterator[str]:
        for name, what in GAUGES.items():
            yield from _head(name, what, "gauge")
            yield f"{PREFIX}_{name} {self._sum(name, ''):.15g}"


def _head(name: str, what: str, kind: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {what}"
    yield f"# TYPE {PREFIX}_{name} {kind}"
