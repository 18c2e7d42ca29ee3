"""The kernel cache: compiled libraries on disk, each under a key of all that made it.

A *world* is what kernels were made by: target, versions, and the sources that make kernels. The
same kernel of the same world is the same machine code, whatever was compiled with it. So an entry
holds what was compiled together, and a network takes its kernels from as many entries as it needs:
where a model was changed a little, a little is compiled. An entry that does not match its checksum
is built again. Which folder it is, and what lies in it, is known to `kernel_cache`.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Any

import tvm_ffi

from .. import kernel_cache
from ..errors import CacheError
from ..kernel_cache import Note, Place
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

WORLD_DIGITS = 12  # of the 24 of a key


def source_digest(folder: Path = PACKAGE) -> str:
    """Digest of the code that makes kernels.

    Args:
        folder: of the package; `schedules` lies beside it.
    """
    files = [file for pattern in SOURCES for file in sorted(folder.glob(pattern))]
    files += sorted((folder.parent / "schedules").rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def key_of(world: str, symbols: Sequence[str]) -> str:
    """The name of the entry of exactly these kernels."""
    kernels = hashlib.sha256("\n".join(sorted(symbols)).encode()).hexdigest()
    return world[:WORLD_DIGITS] + kernels[: 24 - WORLD_DIGITS]


def load(place: Place, world: str, symbols: Sequence[str]) -> dict[str, Any]:
    """Those of these kernels that are kept, by symbol; from the entry of exactly these if there is
    one, else from those that hold most of what is missing.
    """
    found: dict[str, Any] = {}
    try:
        with kernel_cache.opened(place.path) as folder:
            if _forbids_code(folder):
                return {}
            for key in _entries(folder, world, symbols, found):
                found |= _from_entry(place, folder, key, world, set(symbols) - set(found))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        warnings.warn(
            f"compiled kernels in {place.path} cannot be read ({error.strerror}): they are built "
            "again",
            stacklevel=1,
        )
    return found


def _entries(
    folder: int, world: str, symbols: Sequence[str], found: Mapping[str, Any]
) -> Iterator[str]:
    """The keys of entries to look into, as long as `found` lacks some of these kernels."""
    exactly = key_of(world, symbols)
    yield exactly
    if len(found) == len(symbols):
        return
    notes = kernel_cache.notes(folder, world[:WORLD_DIGITS])
    notes.pop(exactly, None)
    held = {key: _kernels(note, world) for key, note in notes.items()}
    while missing := set(symbols) - set(found):
        best = max(held, key=lambda key: (len(held[key] & missing), key), default=None)
        if best is None or not held.pop(best) & missing:
            return
        yield best


def _kernels(note: Note, world: str) -> set[str]:
    """What an entry has for this world, and not for one whose digest begins alike."""
    kernels = note.about.get("kernels")
    if note.about.get("world") != world or not isinstance(kernels, list):
        return set()
    return {str(symbol) for symbol in kernels}


def _from_entry(
    place: Place, folder: int, key: str, world: str, wanted: AbstractSet[str]
) -> dict[str, Any]:
    """What an entry has of these kernels; one that is damaged is told of, and dropped."""
    try:
        note = kernel_cache.read_note(folder, key)
        if note is None or not _kernels(note, world):
            return {}
        names = kernel_cache.libraries(folder, key)
        return named([_library(folder, name) for name in names or ()], wanted)
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, OSError, RuntimeError) as error:
        if not isinstance(error, OSError):  # which may be too many open files: the entry is good
            kernel_cache.drop(folder, key)
        warnings.warn(
            f"compiled network {place.path / key}.json is damaged ({error}); building it again",
            stacklevel=1,
        )
        return {}


def named(modules: Sequence[Any], symbols: Iterable[str]) -> dict[str, Any]:
    """What modules have of these functions."""
    wanted = list(symbols)
    return {s: m[s] for m in modules for s in wanted if m.implements_function(s, True)}


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


def store(executables: Sequence[Any], place: Place, world: str, symbols: Sequence[str]) -> bool:
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
                about = {"world": world, "kernels": sorted(symbols)}
                kernel_cache.write(folder, scratch, key_of(world, symbols), names, about)
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
