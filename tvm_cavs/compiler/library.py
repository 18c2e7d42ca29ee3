"""Kernels that were noted -> one shared library for a process that has no compiler.

The same kernels give the same bytes: how many cores there are here decides nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from tvm.support import cc

from ..errors import TargetError
from .compiler import Compiler
from .linking import link, words
from .target_rules import architecture

SUPPORT = Path(__file__).with_name("support.c")
PARTS = 4  # that are compiled at once; they decide where functions lie
COMPILE_SUPPORT = ("-O2", "-x", "c", str(SUPPORT), "-x", "none")
PLAIN = ("-s", "-Wl,--build-id=none")  # no names of files, nothing that differs between two runs


def make_library(compiler: Compiler, folder: Path, name: str, linker: str | None = None) -> None:
    """Compile all that `compiler` has noted and link it to `folder/name`.

    Args:
        linker: a C compiler for the target's architecture; None for one by its usual name.

    Raises:
        TargetError: there is no such C compiler, or it fails.
        OSError: the library cannot be written.
    """
    wanted = architecture(compiler.target)
    command = _usual_linker(wanted) if linker is None else _found(linker)
    noted = [compiler.noted[symbol] for symbol in sorted(compiler.noted)]
    executables = compiler.executables(noted, PARTS)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        link(descriptor, executables, name, command, (*COMPILE_SUPPORT, *PLAIN))
    except RuntimeError as error:
        raise TargetError(f"kernels for {wanted}: {error}") from None
    finally:
        os.close(descriptor)


def _found(linker: str) -> str:
    """A command that was named, if there is such a program.

    Raises:
        TargetError: there is none.
    """
    given = words(linker)
    if given and shutil.which(given[0]):
        return linker
    raise TargetError(f"linker: {linker!r:.60} is no program here; name a C compiler's command")


def _usual_linker(wanted: str) -> str:
    """The C compiler for an architecture.

    Raises:
        TargetError: there is none here.
    """
    here = wanted == platform.machine()
    found = cc.get_cc() if here else shutil.which(f"{wanted}-linux-gnu-gcc")
    if found is not None:
        return str(found)
    package = "gcc" if here else f"gcc-{wanted.replace('_', '-')}-linux-gnu"
    raise TargetError(
        f"no C compiler links libraries for {wanted} here. Install one (on Debian and Ubuntu: apt "
        f"install {package}), or name it: linker=COMMAND"
    )
