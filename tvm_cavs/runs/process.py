"""The process of a run: signals that ask it to stop, and its age.

Ctrl-C and SIGTERM set a flag that the training loop looks at after each step; the second signal
interrupts at once, as if there were no handler.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Stop:
    """The signal that asked to stop, if one did."""

    signal: int | None = None

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that ended by the signal: 130 for Ctrl-C; else 0."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets the flag. Does nothing outside the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        restore()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        restore()


def process_age() -> float | None:
    """Seconds since this process was started, imports included; None where there is no /proc."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # starttime, see proc(5)
    except OSError:
        return None
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
