"""Turn: training is one thread's at a time; another one is refused, by name."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from threading import Thread, current_thread

from ..errors import TraceError
from .loss import Loss

IN_MIDST, WAITS = "is in the midst of a step", "has a loss that waits for backward()"


class Turn:
    """Whose turn it is to train a network: from a forward pass until its loss has gone back.

    A loss that nobody holds any more, or of a thread that has ended, waits for nothing. There is no
    lock that could stay locked: a thread whose step was cut short goes on as if it had ended.
    """

    def __init__(self) -> None:
        self._running: dict[str, Thread] = {}  # the thread that is in the midst of a step
        self._thread: Thread | None = None
        self._waiting: Callable[[], Loss | None] | None = None  # for its backward pass

    def forward(self, work: Callable[[], Loss]) -> Loss:
        """The loss that `work` makes, which waits for its backward pass from now on.

        Raises:
            TraceError: another thread is training.
        """
        me = self._begin()
        try:
            if self._thread is not me and self._waiting is not None:
                self._refuse_for(self._thread, WAITS, self._waiting())
            self._thread, self._waiting = me, None
            loss = work()
            self._waiting = weakref.ref(loss)
            return loss
        finally:
            self._running.pop("it", None)

    def backward(self, work: Callable[[], None]) -> None:
        """Run `work`, after which no loss waits.

        Raises:
            TraceError: another thread is in the midst of a step.
        """
        self._begin()
        try:
            work()
            self._waiting = None
        finally:
            self._running.pop("it", None)

    def _begin(self) -> Thread:
        """This thread, which is in the midst of a step from now on."""
        me = current_thread()
        running = self._running.setdefault("it", me)
        if running is not me:
            self._refuse_for(running, IN_MIDST, self)
            self._running["it"] = me  # the one before has ended in the midst
        return me

    def _refuse_for(self, thread: Thread | None, doing: str, what: object) -> None:
        """Refuse this thread if another one, which lives, is doing something with what is there."""
        if what is None or thread is None or not thread.is_alive():
            return
        raise TraceError(
            f"thread {current_thread().name!r} trains a network that thread {thread.name!r} "
            f"trains: it {doing}. Train in one thread, or a copy (copy.deepcopy(net)) in each. "
            "Any number of threads may run the network outside of record()."
        )
