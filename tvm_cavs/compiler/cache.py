"""The kernel cache: compiled libraries on disk, each under a key of all that made it.

The key holds the kernels, the target, the versions and the sources that make kernels. An entry that
does not match its checksum is built again. Which folder it is, and what lies in it, is known to
`kernel_cache`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tvm_ffi

from .. import kernel_cache
from ..errors import CacheError
from ..kernel_cache import Place
from .linking import link
from .workers import on_all_cores

PACKAGE = Path(__file__).parents[1]
# What makes kernels: what is kept on disk is of no use when one of these files changes.
SOURCES = (
    "compiler/kernels/**/*.py",
    "compiler/lowering/region.py",
    "compiler/lowering/specs.py",
    "compiler/forms.py",
    "compiler/machine.py",
    "compiler/host.py",
    "runtime/tables.py",
    "training/optim.py",  # an optimizer's rule is traced into its update
    "dropout.py",
)


def source_digest(folder: Path = PACKAGE) -> str:
    """Digest of the code that makes kernels.

    Args:
        folder: of the package; `schedules` lies beside it.
    """
    files = [file for pattern in SOURCES for file in sorted(folder.glob(pattern))]
    files += sorted((folder.parent / "schedules").rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def load(place: Place, key: str, symbols: Sequence[str]) -> list[Any] | None:
    """Stored libraries that have these functions; None if there are none or one is damaged."""
    try:
        with kernel_cache.opened(place.path) as folder:
            names = kernel_cache.libraries(folder, key)
            if names is None or _forbids_code(folder):
                return None
            found = [_library(folder, name) for name in names]
        for s in symbols:
            if not any(library.implements_function(s, True) for library in found):
                raise ValueError(f"{s} is in none of its libraries")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError, OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled network {place.path / key}.json is damaged ({error}); building it again",
            stacklevel=1,
        )
        return None


def _library(folder: int, name: str) -> Any:
    """One, by the descriptor: through no other folder, and by a name that is the content's.

    Raises:
        FileNotFoundError: another process has removed it since its content was checked.
        RuntimeError: it cannot be loaded.
    """
    try:
        return tvm_ffi.load_module(f"/proc/self/fd/{folder}/{name}")
    except RuntimeError:
        os.stat(name, dir_fd=folder)
        raise


def store(executables: Sequence[Any], place: Place, key: str) -> bool:
    """Link the libraries and keep them; True if done.

    Without a linker, or where the folder cannot be written, a warning says so and nothing is kept.
    Python says the same warning once a process.
    """
    try:
        with kernel_cache.opened(place.path, make=True) as folder:
            if _forbids_code(folder):
                raise OSError("code is not run from there: mounted with noexec")
            kernel_cache.remove_leftovers(folder)
            with kernel_cache.scratch(folder) as scratch:
                names = [f"{i}.so" for i in range(len(executables))]
                on_all_cores(partial(link, scratch), [[each] for each in executables], names)
                kernel_cache.write(folder, scratch, key, names)
            kernel_cache.trim(folder, place.limit)
            return True
    except (OSError, CacheError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or f"{error}"
        remedy = "Set TVM_CAVS_CACHE to a folder that can be written"
    except RuntimeError as error:
        reason = f"{error}"
        remedy = "Install gcc, or name another C compiler in CXX; it needs space in that folder"
    warnings.warn(
        f"compiled kernels cannot be kept in {place.path} ({reason}): every start compiles again. "
        f"{remedy}",
        stacklevel=1,
    )
    return False


def _forbids_code(folder: int) -> bool:
    """Whether the file system lets no shared object be loaded."""
    return bool(os.fstatvfs(folder).f_flag & os.ST_NOEXEC)
