"""The kernel cache: compiled libraries on disk, each under a key of all that made it.

The key holds the kernels, the target, the versions and the sources that make kernels. An entry that
does not match its checksum is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm.support import cc

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


def default_cache() -> Path:
    """$TVM_CAVS_CACHE, or tvm_cavs in the user's cache folder."""
    if os.environ.get("TVM_CAVS_CACHE"):
        return Path(os.environ["TVM_CAVS_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tvm_cavs"


def source_digest(folder: Path = PACKAGE) -> str:
    """Digest of the code that makes kernels.

    Args:
        folder: of the package; `schedules` lies beside it.
    """
    files = [file for pattern in SOURCES for file in sorted(folder.glob(pattern))]
    files += sorted((folder.parent / "schedules").rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def load(folder: Path, key: str, symbols: Sequence[str]) -> list[Any] | None:
    """Stored libraries that have these functions; None if there are none or one is damaged."""
    note = folder / f"{key}.json"
    try:
        libraries = []
        for name, digest in json.loads(note.read_text()).items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name}: the checksum differs")
            libraries.append(tvm.runtime.load_module(str(folder / name)))
        for s in symbols:
            if not any(library.implements_function(s, True) for library in libraries):
                raise ValueError(f"{s} is in none of its libraries")
        return libraries
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError, OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled network {note} is damaged ({error}); building it again", stacklevel=5
        )
        return None


def store(executables: Sequence[Any], folder: Path, key: str, pool: ThreadPoolExecutor) -> bool:
    """Write the libraries, then their checksums, each file whole or not at all; True if done.

    A library is named for its content: two processes that store at once do not mix theirs.
    Without a linker, or where the folder cannot be written, a warning says so and nothing is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            digests = {}
            if cc.get_cc() is None:
                raise OSError("no C compiler to link them with")
            libraries = [Path(scratch) / f"{i}.so" for i in range(len(executables))]
            list(pool.map(lambda e, to: e.export_library(str(to)), executables, libraries))
            for library in libraries:
                digest = hashlib.sha256(library.read_bytes()).hexdigest()
                name = f"{key}.{digest[:12]}.so"
                digests[name] = digest
                os.replace(library, folder / name)
            note = Path(scratch) / "note.json"
            note.write_text(json.dumps(digests))
            os.replace(note, folder / f"{key}.json")
            return True
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1]
        warnings.warn(
            f"compiled kernels cannot be kept in {folder} ({reason}): every start compiles again. "
            "Install gcc, or set TVM_CAVS_CACHE to a folder that can be written",
            stacklevel=6,
        )
        return False
