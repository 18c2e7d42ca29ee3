"""Measuring: candidates of a recorded kernel -> their times, whatever a candidate does.

Each is compiled, checked and timed in a worker process. One that hangs or crashes costs the time
until that is noticed, and a new worker.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tvm_cavs.compiler import Recorded
from tvm_cavs.errors import TuningError

from .worker import LOADED, Failed, Settings, Timing, serve

START_SECONDS = 180.0  # until a worker has imported what it needs, on a busy machine
END_SECONDS = 2.0


class Bench:
    """Measures candidates of one kernel at a time. To be closed.

    Args:
        settings: what is compiled for; `settings.timeout`: seconds that a candidate may take.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._recorded: Recorded | None = None

    def load(self, recorded: Recorded) -> None:
        """Candidates are of this kernel from now on.

        Raises:
            TuningError: even the default cannot be run.
        """
        self._recorded = recorded
        if self._process is None:
            self._start()
        elif self._ask(recorded, START_SECONDS) != LOADED:
            self._start()

    def measure(self, knobs: Any, best: Any = None) -> Timing | Failed:
        """A candidate's time beside the default's and that of the best so far."""
        if self._process is None:
            self._start()
        answer = self._ask((knobs, best), self._settings.timeout)
        assert isinstance(answer, (Timing, Failed))
        return answer

    def close(self) -> None:
        """End the worker."""
        if self._process is not None and self._connection is not None:
            self._connection.close()
            self._process.join(END_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
        self._process = self._connection = None

    def _start(self) -> None:
        """A new worker, which has the kernel."""
        self.close()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._settings), daemon=True)
        self._process.start()
        theirs.close()
        ready = self._answer(START_SECONDS)
        if ready == LOADED and self._recorded is not None:
            ready = self._ask(self._recorded, START_SECONDS)
        if ready != LOADED:
            self.close()
            raise TuningError(
                f"the process that measures does not run the kernel's defaults: {ready}. Run the "
                "command that trains to see whether they run at all"
            )

    def _ask(self, request: Any, seconds: float) -> Any:
        assert self._connection is not None
        try:
            self._connection.send(request)
        except OSError:
            return self._gone()
        return self._answer(seconds)

    def _answer(self, seconds: float) -> Any:
        """The worker's answer, or why there is none; it is then ended."""
        assert self._connection is not None
        try:
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError):
            return self._gone()
        self._kill()
        return Failed(f"no answer within {seconds:g} s")

    def _gone(self) -> Failed:
        assert self._process is not None
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        self._kill()
        return Failed(f"its process ended with exit code {code}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
        self.close()
