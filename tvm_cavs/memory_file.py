"""A file in memory, which no disk has to hold."""

from __future__ import annotations

import ctypes
import os

MFD_CLOEXEC = 1


def memory_file(name: str) -> int:
    """The descriptor of a new one; its name is for people.

    From libc, as some builds of Python leave os.memfd_create out.

    Raises:
        OSError: the system gives none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.memfd_create(name.encode(), MFD_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no file in memory: {os.strerror(number)}")
    return descriptor
