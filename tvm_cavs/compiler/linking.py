"""Machine code in memory -> a shared library in a folder, with nothing else left on any disk.

LLVM ends the process when a file that it writes cannot be written, and the linker wants a temporary
folder. So object code is written to memory, and the linker works in the folder that it writes to.
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from tvm.support import cc

from ..kernel_cache import above_standard
from ..memory_file import memory_file

MOST_BYTES = 1 << 26  # no object file is larger


def link(
    scratch: int,
    executables: Sequence[Any],
    name: str,
    compiler: str | None = None,
    options: Sequence[str] = (),
) -> None:
    """Link what TVM has compiled to the library `name` in the folder `scratch`, a descriptor.

    Args:
        compiler: the C compiler that links, this machine's by default. options: more of its own.

    Raises:
        OSError: files may not be large enough, or there is no file in memory.
        RuntimeError: there is no compiler to link with, or it fails; the message is its own.
    """
    compiler = compiler or cc.get_cc()
    if compiler is None:
        raise RuntimeError("no C compiler to link them with")
    command = words(compiler)
    if not command:
        raise RuntimeError(f"{compiler!r} names no C compiler to link them with")
    modules = [m for each in executables for m in each.mod._collect_dso_modules()]
    objects: list[int] = []
    try:
        for module in modules:
            objects.append(_object(module))
        _run([*command, "-shared", "-fPIC", *options, "-o", name], objects, scratch)
    finally:
        for descriptor in objects:
            os.close(descriptor)


def words(command: str) -> list[str]:
    """What a shell makes of a command; of one whose quotation has no end, nothing."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def _object(module: Any) -> int:
    """Descriptor of a file in memory that holds a module's object code."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if 0 <= limit < MOST_BYTES:
        raise OSError(errno.EFBIG, f"files may have {limit} bytes here, see ulimit -f")
    descriptor = above_standard(memory_file("kernels"))
    try:
        module.write_to_file(f"/proc/self/fd/{descriptor}", "o")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _run(command: list[str], objects: list[int], scratch: int) -> None:
    try:
        done = subprocess.run(
            [*command, *(f"/proc/self/fd/{each}" for each in objects)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=f"/proc/self/fd/{scratch}",
            env=os.environ | {"TMPDIR": "."},
            pass_fds=objects,
            check=False,
        )
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip().splitlines()
        first = said[0] if said else f"it ended with {done.returncode}"
        raise RuntimeError(f"{command[0]} could not link them: {first}")
