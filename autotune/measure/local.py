"""Measuring on this machine, in a worker process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tvm_cavs.compiler import Recorded

from ..worker import LOADED, Failed, Settings, Timing
from .process import START_SECONDS, Ended, Worker, started


class LocalBench:
    """A Bench of one worker.

    Args:
        settings: what is compiled for; `settings.timeout`: seconds that a candidate may take.
    """

    width = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker: Worker | None = None
        self._recorded: Recorded | None = None

    def load(self, recorded: Recorded) -> None:
        """See `Bench.load`."""
        self._recorded = recorded
        if self._worker is None or self._worker.ask(recorded, START_SECONDS) != LOADED:
            self._start()

    def measure(
        self, candidates: Sequence[Any], best: Any = None
    ) -> Iterator[tuple[Any, Timing | Failed]]:
        """See `Bench.measure`."""
        for knobs in candidates:
            worker = self._worker or self._start()
            answer = worker.ask((knobs, best), self._settings.timeout)
            if isinstance(answer, Ended):
                self._worker, answer = None, Failed(answer.reason)
            yield knobs, answer

    def close(self) -> None:
        """See `Bench.close`."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    def _start(self) -> Worker:
        """A new worker, which has the kernel."""
        self._worker = None
        (self._worker,) = started(self._settings, self._recorded)
        return self._worker
