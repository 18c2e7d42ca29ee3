"""Helper: a thread that does one thing at a time for a loop, while the loop does another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

PATIENCE = 5.0  # seconds to wait at the end for what the thread is doing


class Helper:
    """Does what `begin` was given, in a thread that ends with the `with` statement.

    A thread that waits for ever, for a loader perhaps, does not keep the program from ending.
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._work.put(None)
        if self._thread.ident is not None:
            self._thread.join(PATIENCE)

    def begin(self, work: Callable[[], Any]) -> None:
        """Do this; `result` says what came of it, and is asked before anything else is begun."""
        if self._thread.ident is None:
            self._thread.start()
        self._work.put(work)

    def result(self) -> Any:
        """What the work has returned, or its error, raised."""
        made, error = self._done.get()
        if error is not None:
            raise error
        return made

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                self._done.put((work(), None))
            except BaseException as error:  # whatever it is, the loop raises it
                self._done.put((None, error))
            del work  # nothing is held while there is nothing to do
