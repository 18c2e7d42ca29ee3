"""What a user names -> where kernels are kept, and how many bytes may lie there."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CacheError
from .folder import opened

FOLDER, LIMIT = "TVM_CAVS_CACHE", "TVM_CAVS_CACHE_LIMIT"
DEFAULT_LIMIT = 2_000_000_000  # bytes
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,9})?) ?(?P<unit>[KMGT]?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A folder of kernels. limit: bytes that may lie there once something was added."""

    path: Path
    limit: int = DEFAULT_LIMIT


def choose(given: Any = None) -> Place | None:
    """Where to keep kernels; None to keep nothing.

    A folder that is named is used or refused. The default one is the user's own, or a warning says
    that nothing is kept.

    Args:
        given: a folder; None for $TVM_CAVS_CACHE or the default; False to keep nothing.

    Raises:
        CacheError: the folder that is named is not the user's own, or no folder can be named so;
            or the limit is no size.
    """
    if given is False:
        return None
    named, limit = named_folder(given), size_limit()
    if limit == 0:
        return None
    try:
        path = named or default_folder()
        _look_at(path)
    except CacheError as error:
        if named:
            raise
        warnings.warn(f"{error} Until then every start compiles again.", stacklevel=1)
        return None
    return Place(path, limit)


def _look_at(path: Path) -> None:
    """Refuse a folder that is there and foreign; of any other fault is told when it matters."""
    try:
        with opened(path):
            pass
    except OSError:
        pass


def named_folder(given: Any = None) -> Path | None:
    """The folder that a user names, as an argument or as $TVM_CAVS_CACHE; ~ is the home folder.

    Raises:
        CacheError: it is no path.
    """
    where = "cache"
    if given is None or given == "":
        given, where = os.environ.get(FOLDER) or None, FOLDER
    if given is None:
        return None
    try:
        path = Path(given).expanduser()
        os.fsencode(path)
        if "\0" in str(path):
            raise ValueError("no path holds a NUL")
        return path
    except (TypeError, ValueError, RuntimeError) as error:
        raise CacheError(
            f"{where}={given!r:.80}: {error}. Expected the path of a folder (cache=False keeps "
            "nothing)."
        ) from error


def default_folder() -> Path:
    """tvm_cavs in the user's cache folder: $XDG_CACHE_HOME, or ~/.cache.

    A relative path in $XDG_CACHE_HOME does not count, as its specification says.

    Raises:
        CacheError: there is no home folder, as in a container whose user has no name.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "tvm_cavs"
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry in the list of users
        home = Path()
    if not home.is_absolute():
        raise CacheError(
            f"user {os.geteuid()} has no home folder to keep compiled kernels in. Set {FOLDER} to "
            "a folder that can be written."
        )
    return home / ".cache" / "tvm_cavs"


def size_limit() -> int:
    """Bytes that kernels may take: $TVM_CAVS_CACHE_LIMIT, such as 500MB, or 2 GB; 0 keeps nothing.

    Raises:
        CacheError: it is no size.
    """
    given = os.environ.get(LIMIT, "").strip()
    if not given:
        return DEFAULT_LIMIT
    found = SIZE.fullmatch(given)
    if found is None:
        raise CacheError(
            f"{LIMIT}={given!r:.80} is no size. Expected bytes, or a number with its unit, such as "
            "500MB or 2 GB; 0 keeps nothing."
        )
    return int(float(found["number"]) * UNITS[found["unit"].upper()])
