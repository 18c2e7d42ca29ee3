"""The bytes of a library of kernels -> the library, loaded.

The one idea: what was checked is what runs. So the bytes are loaded from memory, not the file once
more. The system's loader gives a library again whose path it knows, though another one may lie
there now, where a model was exported anew; so every path here is used once.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import tvm_ffi

from ..errors import DeployError
from ..memory_file import memory_file

BITS = 24  # of the number of a library in this process
_numbers = itertools.count()


def load_library(content: bytes) -> Any:
    """The library as a module of tvm_ffi, whose functions are found by their symbols.

    Raises:
        DeployError: it is none for this machine, or the system gives no memory for it.
    """
    try:
        descriptor = memory_file("kernels")
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            load = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
            return load(_path(descriptor, next(_numbers)), "so")
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeployError(f"the model's kernels cannot be loaded: {reason}.") from error


def _path(descriptor: int, number: int) -> str:
    """A path of the file that nobody has used: "/" and "/./" lead to the same and spell numbers."""
    spelled = "".join("/." if number >> bit & 1 else "/" for bit in range(BITS))
    return f"/proc/self/fd{spelled}/{descriptor}"
