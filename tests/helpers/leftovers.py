"""Kernels run on memory full of leftovers, and must not compute with them, even in vain.

What a kernel packs lies in TVM's workspace, which holds what ran there before. As float32 that is
often subnormal (small integers, halves of pointers), and every multiplication with such a number
takes a hundred cycles, although nobody stores what comes of it. Seen: a weight gradient took four
times as long, or not, by what had run before.
"""

import ctypes
from collections.abc import Callable
from ctypes.util import find_library
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import tvm

SIGNALLING_NAN = 0x7FA00000  # bits of a float32 that raises a flag as soon as one computes with it
INVALID = 1  # FE_INVALID of fenv.h on x86 and ARM
CPU, FLOAT = 1, 2  # of DLPack
SIZES = [1 << i for i in range(10, 23)]  # bytes of a scratch
EACH = 3  # scratches of one size


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """TVM's runtime, and the C library's mathematics."""
    runtime = ctypes.CDLL(str(Path(tvm.__file__).parent / "lib" / "libtvm_runtime.so"))
    runtime.TVMBackendAllocWorkspace.restype = ctypes.c_void_p
    return runtime, ctypes.CDLL(find_library("m"))


def fill_workspace() -> None:
    """Signalling NaN in all the workspace that this thread will get next."""
    runtime, _ = _libraries()
    taken = []
    for size in SIZES * EACH:
        given = runtime.TVMBackendAllocWorkspace(CPU, 0, ctypes.c_uint64(size), FLOAT, 32)
        place = (ctypes.c_uint32 * (size // 4)).from_address(given)
        np.frombuffer(place, "uint32")[:] = SIGNALLING_NAN
        taken.append(given)
    for given in reversed(taken):
        runtime.TVMBackendFreeWorkspace(CPU, 0, ctypes.c_void_p(given))


def run(kernel: Callable[..., Any], *arguments: Any) -> None:
    """Call a kernel in a thread of its own, whose workspace is full of leftovers.

    Raises:
        AssertionError: it has computed with them.
    """
    found: list[Any] = []

    def call() -> None:
        try:
            fill_workspace()
            flags = _libraries()[1]
            flags.feclearexcept(INVALID)
            kernel(*arguments)
            found.append(flags.fetestexcept(INVALID))
        except BaseException as error:
            found.append(error)

    thread = Thread(target=call)
    thread.start()
    thread.join()
    (outcome,) = found
    if isinstance(outcome, BaseException):
        raise outcome
    assert not outcome, "the kernel has computed with what was left in its scratch"
