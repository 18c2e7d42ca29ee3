"""Measuring on other devices: as many workers as the tracker has servers, each in its sessions.

A worker compiles, waits for a server that is free, and measures there. A server that is gone is not
a candidate's fault: that is measured on another one, once more. If none is left, what was measured
has been answered, and an error says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from tvm_cavs.compiler import NoServerError, Recorded, no_server
from tvm_cavs.errors import TuningError

from ..worker import LOADED, Failed, Lost, Settings, Timing, Unusable
from .process import START_SECONDS, Ended, Worker, started


class RpcBench:
    """A Bench of a worker for each server that is registered when it is made.

    Args:
        settings: what is compiled for; `settings.timeout`: seconds that a candidate may take, to
            compile and to run each.

    Raises:
        TuningError: the tracker does not answer, or has no server.
    """

    def __init__(self, settings: Settings) -> None:
        assert settings.tracker is not None
        self._settings = settings
        self.width = servers(settings)
        self._workers: list[Worker] = []
        self._recorded: Recorded | None = None

    def load(self, recorded: Recorded) -> None:
        """See `Bench.load`; that defaults cannot be run is said when candidates are measured."""
        self._recorded = recorded
        for worker in list(self._workers):
            if worker.ask(recorded, START_SECONDS) != LOADED:
                self._workers.remove(worker)

    def measure(
        self, candidates: Sequence[Any], best: Any = None
    ) -> Iterator[tuple[Any, Timing | Failed]]:
        """See `Bench.measure`."""
        waiting, again = deque(candidates), set[Any]()
        busy: dict[Any, tuple[Worker, Any]] = {}
        while waiting or busy:
            for worker in self._idle([worker for worker, _ in busy.values()], len(waiting)):
                knobs = waiting.popleft()
                if worker.send((knobs, best)) is None:
                    busy[worker.connection] = worker, knobs
                else:
                    self._workers.remove(worker)
                    waiting.appendleft(knobs)
            for connection in wait(list(busy)):
                worker, knobs = busy.pop(connection)
                answer = worker.answer()
                if isinstance(answer, Ended):
                    self._workers.remove(worker)
                    answer = Failed(answer.reason)
                if isinstance(answer, Unusable):
                    raise TuningError(
                        f"the defaults of a kernel do not run on the servers of "
                        f"{self._settings.tracker}: {answer.reason}. Is executor.target what they "
                        "are?"
                    )
                if isinstance(answer, Lost) and answer.for_good:
                    raise TuningError(f"{answer.reason}. The same command then goes on")
                if isinstance(answer, Lost) and knobs not in again:
                    again.add(knobs)
                    waiting.append(knobs)
                elif isinstance(answer, Lost):
                    yield knobs, Failed(f"two servers were gone while it ran: {answer.reason}")
                else:
                    yield knobs, answer

    def close(self) -> None:
        """See `Bench.close`."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _idle(self, busy: Sequence[Worker], wanted: int) -> list[Worker]:
        """Workers without work, new ones included, which have the kernel."""
        idle = [worker for worker in self._workers if worker not in busy]
        more = min(wanted - len(idle), self.width - len(self._workers))
        if more > 0:
            new = started(self._settings, self._recorded, more)
            self._workers += new
            idle += new
        return idle[:wanted]


def servers(settings: Settings) -> int:
    """How many servers there are to measure on.

    Raises:
        TuningError: none, or the tracker does not answer.
    """
    assert settings.tracker is not None
    try:
        known, _ = settings.tracker.servers()
    except NoServerError as error:
        raise TuningError(str(error)) from None
    if not known:
        raise TuningError(no_server(settings.tracker))
    return known
