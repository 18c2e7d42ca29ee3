"""A worker process, as its parent sees it: requests go out, answers come, or the reason why not."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass
from typing import Any

from tvm_cavs.compiler import Recorded
from tvm_cavs.errors import TuningError

from ..worker import LOADED, Settings, serve

START_SECONDS = 180.0  # until a worker has imported what it needs, on a busy machine
END_SECONDS = 2.0


@dataclass(frozen=True)
class Ended:
    """Why a worker gives no more answers."""

    reason: str


class Worker:
    """A process that serves; once it has `Ended`, no more than closing it is possible."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.timeout
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, settings), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> Any:
        """LOADED when it has started, or Ended."""
        return self.answer(START_SECONDS)

    def ask(self, request: Any, seconds: float) -> Any:
        """The answer to a request, or Ended."""
        return self.send(request) or self.answer(seconds)

    def send(self, request: Any) -> Ended | None:
        try:
            self.connection.send(request)
        except OSError:
            return self._gone()
        return None

    def answer(self, seconds: float | None = None) -> Any:
        """The next answer, or Ended; None: it is there."""
        try:
            if self.connection.poll(seconds if seconds is not None else 0):
                return self.connection.recv()
        except (EOFError, OSError):
            return self._gone()
        self.kill()
        return Ended(f"no answer within {seconds:g} s")

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.join(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _gone(self) -> Ended:
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        self.kill()
        if code == -signal.SIGALRM:
            return Ended(f"no answer within {self._timeout:g} s")
        if code is None:
            return Ended("its process has gone silent, and had not ended")
        return Ended(f"its process ended with exit code {code}")


def started(settings: Settings, recorded: Recorded | None, n: int = 1) -> list[Worker]:
    """Workers, started at the same time, which have the kernel.

    Raises:
        TuningError: one does not come up, or cannot run the kernel.
    """
    workers = [Worker(settings) for _ in range(n)]
    for worker in workers:
        found = worker.ready()
        if found == LOADED and recorded is not None:
            found = worker.ask(recorded, START_SECONDS)
        if found != LOADED:
            for each in workers:
                each.kill()
            raise TuningError(
                f"the process that measures does not run the kernel's defaults: {found.reason}. "
                "Run the command that trains to see whether they run at all"
            )
    return workers
