"""Locks that another thread holds, as it may at the moment in which a process is forked."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

KINDS = type(threading.Lock()), type(threading.RLock())


def locks_of(*owners: Any) -> list[Any]:
    """All locks of these objects, and of the objects of tvm_cavs that they lead to."""
    found: list[Any] = []
    seen: set[int] = set()
    ahead = list(owners)
    while ahead:
        each = ahead.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, KINDS):
            found.append(each)
        elif isinstance(each, dict):
            ahead += each.values()
        elif isinstance(each, (list, tuple, set, frozenset)):
            ahead += each
        elif type(each).__module__.startswith("tvm_cavs"):
            ahead += getattr(each, "__dict__", {}).values()
            ahead += [getattr(each, name, None) for name in getattr(each, "__slots__", ())]
    return found


@contextmanager
def held(locks: Sequence[Any]) -> Iterator[None]:
    """Inside, another thread holds them all."""
    are_held, ends = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        are_held.set()
        ends.wait()
        for lock in reversed(locks):
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    are_held.wait()
    try:
        yield
    finally:
        ends.set()
        holder.join()


def fork_beside(locks: Sequence[Any], work: Callable[[], object]) -> None:
    """Let a process that is forked while another thread holds the locks do `work`: it must end."""
    with held(locks):
        child = os.fork()
        if not child:
            try:
                signal.alarm(60)  # rather than hang
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
    assert status == 0, f"the forked process ended with {os.waitstatus_to_exitcode(status)}"
