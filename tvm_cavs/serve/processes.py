"""Several processes behind one port, and one more that minds them.

The processes share nothing but pages of the model that nobody writes to, and counters. Each has a
socket of its own, and the system spreads connections over them. The one that minds them holds
copies of these sockets: who connects to a process that has just ended waits for its successor.

A process that answers does not heed signals, which come to all of a group: it obeys the one that
minds it, on a channel, and ends when that one has gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, NoReturn

from ..errors import CavsError
from .orders import END, ENDS, KEEP, LOAD, LOADED, READY, TAKE, message, read_message
from .service import Service

HEEDED = (*ENDS, signal.SIGHUP, signal.SIGCHLD)
SILENT = 600.0  # seconds after which a process that loads is taken for one that hangs
YOUNG = 1.0  # seconds: who ends earlier is not replaced at once
LOG = logging.getLogger(__name__)
Serve = Callable[[int, socket.socket], None]


@dataclass(frozen=True, eq=False)
class Child:
    """A process that answers.

    number: of its socket, and of its row in the metrics.
    """

    number: int
    pid: int
    channel: socket.socket
    lines: IO[bytes]
    since: float = field(default_factory=time.monotonic)

    def tell(self, order: str, what: str = "") -> None:
        """If it still lives."""
        try:
            self.channel.sendall(message(order, what))
        except OSError:
            LOG.debug("process %d has gone", self.pid)

    def answer(self) -> tuple[str, str]:
        """What it says next; ("", "") if it has gone."""
        try:
            return read_message(self.lines.readline())
        except OSError:
            return "", ""

    def close(self) -> None:
        """Forget it here; it can be told no more."""
        self.lines.close()
        self.channel.close()


class Heard:
    """Signals, in the order in which they come. To be entered in the main thread.

    They are handled, not blocked and waited for: the system gives a signal to any thread of a
    process that does not block it, and who starts a server from Python may have threads.
    """

    def __enter__(self) -> Heard:
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._handlers = {each: signal.signal(each, lambda *_: None) for each in HEEDED}
        return self

    def next(self) -> int:
        """The number of the next one; waits for it."""
        while (number := self._ours.recv(1)[0]) not in HEEDED:
            LOG.debug("signal %d is somebody else's", number)
        return number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._ours.close()
        self._theirs.close()


class Parent:
    """Starts processes, and minds them.

    Args:
        service: whose model all begin with; none of it has been asked anything.
        listening: a socket for each.
        serve: what a process does, given its number and the channel to this one.
    """

    def __init__(self, service: Service, listening: list[socket.socket], serve: Serve) -> None:
        self._service, self._listening, self._serve = service, listening, serve
        self._children: list[Child] = []
        self._ends = False

    def run(self, started: Callable[[], None]) -> None:
        """Until a signal ends it; then all answer what has come in. A second one ends them at once.

        Raises:
            CavsError: a process does not start.
        """
        with Heard() as heard:
            try:
                for number in range(len(self._listening)):
                    self._start(number)
                    if self._children[-1].answer()[0] != READY:
                        raise CavsError("a process of the server has ended before it could answer")
                started()
                while self._children:
                    self._heed(heard.next())
            finally:
                self._kill()

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)  # a child's, for good
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            ours.close()
            self._be_a_child(number, theirs)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        ours.settimeout(SILENT)
        self._children.append(Child(number, pid, ours, ours.makefile("rb")))

    def _be_a_child(self, number: int, channel: socket.socket) -> NoReturn:
        """Serve, and never return to what this process was a copy of."""
        status = 1
        try:
            for each in self._children:
                each.close()
            for k, listening in enumerate(self._listening):
                if k != number:
                    listening.close()
            self._service.metrics.use(number)
            self._serve(number, channel)
            status = 0
        except BaseException:  # nobody else would say it
            traceback.print_exc()
        finally:
            os._exit(status)

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._bury()
        elif number == signal.SIGHUP:
            self._reload()
        elif self._ends:
            self._kill()
        else:
            self._ends = True
            for child in self._children:
                child.tell(END)
            for listening in self._listening:
                listening.close()  # the processes have theirs

    def _bury(self) -> None:
        """Processes that have ended; others take their place, unless all end."""
        for child in self._children.copy():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            self._children.remove(child)
            child.close()
            if self._ends:
                continue
            code = os.waitstatus_to_exitcode(status)
            LOG.error("process %d has ended (%d); another one takes its place", pid, code)
            self._service.metrics.add("restarts_total")
            time.sleep(max(0.0, child.since + YOUNG - time.monotonic()))
            self._start(child.number)
            self._children[-1].answer()

    def _reload(self) -> None:
        """All of them, or none; this one too, as it is what their successors begin with."""
        if self._ends:
            return
        try:
            engine = self._service.load_now()
        except CavsError as error:
            self._keep(str(error))
            return
        for child in self._children:
            child.tell(LOAD)
        answers = [child.answer() for child in self._children]
        failed = [what or "a process has ended" for word, what in answers if word != LOADED]
        if failed:
            self._keep(failed[0])
            return
        for child in self._children:
            child.tell(TAKE)
        self._service.begin_with(engine)
        self._service.metrics.add("reloads_total", label='result="done"')
        LOG.warning("loaded %r again", engine.model.name)

    def _keep(self, why: str) -> None:
        for child in self._children:
            child.tell(KEEP, why)
        self._service.metrics.add("reloads_total", label='result="failed"')
        LOG.error("%s", why)

    def _kill(self) -> None:
        for child in self._children:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            child.close()
        self._children = []
