"""Turn: training is one thread's at a time; another one is refused, by name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import Lock, Thread, current_thread
from typing import TypeVar

from ..errors import TraceError
from ..renewal import renewed_after_fork
from .loss import Loss

Made = TypeVar("Made")


class Turn:
    """Whose turn it is to train a network: from a forward pass until its loss has gone back.

    A loss that nobody holds any more, or of a thread that has ended, waits for nothing.
    """

    def __init__(self) -> None:
        self._renew()
        renewed_after_fork(self, Turn._renew)

    def _renew(self) -> None:
        self._running = Lock()
        self._thread: Thread | None = None
        self._waiting: Callable[[], Loss | None] | None = None  # for its backward pass

    def forward(self, work: Callable[[], Loss]) -> Loss:
        """The loss that `work` makes, which waits for its backward pass from now on.

        Raises:
            TraceError: another thread is training, or this one is in the midst of it.
        """
        self._refuse()
        with self._running:
            self._refuse_other(waiting=True)
            self._thread, self._waiting = current_thread(), None
            loss = work()
            self._waiting = weakref.ref(loss)
        return loss

    def backward(self, work: Callable[[], None]) -> None:
        """Run `work`, after which no loss waits.

        Raises:
            TraceError: another thread is training, or this one is in the midst of it.
        """
        self._refuse()
        with self._running:
            work()
            self._waiting = None

    def _refuse(self) -> None:
        if not self._running.locked():
            return
        self._refuse_other(waiting=False)
        raise TraceError(
            "training was called again in the midst of its own step, by a handler of a signal or "
            "of a warning perhaps. Let it set a flag, and look at the flag between two steps."
        )

    def _refuse_other(self, waiting: bool) -> None:
        """Refuse if another thread is training; with `waiting` only if it has a loss that waits."""
        thread = self._thread
        if thread is None or thread is current_thread() or not thread.is_alive():
            return
        if waiting and (self._waiting is None or self._waiting() is None):
            return
        doing = "has a loss that waits for backward()" if waiting else "is in the midst of a step"
        raise TraceError(
            f"thread {current_thread().name!r} trains a network that thread {thread.name!r} "
            f"trains: it {doing}. Train in one thread, or a copy (copy.deepcopy(net)) in each. "
            "Any number of threads may run the network outside of record()."
        )
