"""`tvm-cavs cache`: what is kept of compiled kernels, and how to be rid of it. Imports no TVM."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import CacheError
from ..kernel_cache import (
    Contents,
    Place,
    clear,
    contents,
    default_folder,
    named_folder,
    opened,
    size_limit,
)
from .output import put
from .parser import FORM, make_parser

WHAT = (
    "Show what is kept of compiled kernels, or clear it.",
    "It lies in $TVM_CAVS_CACHE, or in tvm_cavs of your cache folder. At most "
    "$TVM_CAVS_CACHE_LIMIT bytes are kept (default: 2GB); what was used longest ago leaves first. "
    "A run that needs what was cleared compiles it again.",
)
EXAMPLES = ("clear", "--json")
NOTHING = Contents((), ())


def parse(arguments: Sequence[str], form: str = FORM) -> argparse.Namespace:
    parser = make_parser("cache", form, WHAT, EXAMPLES)
    parser.add_argument("verb", nargs="?", choices=["clear"], help="clear: remove all of it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(arguments)


def look(path: Path, remove: bool) -> Contents:
    """What a folder holds, or held until now.

    Raises:
        CacheError: it is not the user's own, or cannot be read or changed.
    """
    try:
        with opened(path) as folder:
            return clear(folder) if remove else contents(folder)
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except OSError as error:
        raise CacheError(
            f"the folder of compiled kernels {path}: {error.strerror}. Look at its mode and owner, "
            "or name another (TVM_CAVS_CACHE)."
        ) from error


def size(n_bytes: float) -> str:
    """Bytes for people, to three digits."""
    units = ["bytes", "kB", "MB", "GB", "TB"]
    while n_bytes >= 999.5 and len(units) > 1:
        n_bytes, units = n_bytes / 1000, units[1:]
    return f"{n_bytes:.3g} {units[0]}"


def described(place: Place, found: Contents, cleared: bool) -> str:
    """What is there, or what is gone, in lines."""
    n = len(found.entries)
    if cleared:
        what = f"removed {n} {'entry' if n == 1 else 'entries'}, {size(found.n_bytes)}"
        return f"{place.path}: {what if n or found.leftovers else 'nothing to clear'}"
    last = "never"
    if found.entries:
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.entries[-1].used))
    rows = {
        "folder": str(place.path),
        "entries": str(n),
        "size": f"{size(found.n_bytes)} of at most {size(place.limit)}",
        "last used": last,
    }
    return "\n".join(f"{name.ljust(9)}  {value}" for name, value in rows.items())


def as_json(place: Place, found: Contents, cleared: bool) -> str:
    used = found.entries[-1].used if found.entries else None
    row = {
        "folder": str(place.path),
        "entries": len(found.entries),
        "bytes": found.n_bytes,
        "limit": place.limit,
        "last_used": used,
        "cleared": cleared,
    }
    return json.dumps(row)


def main(arguments: Sequence[str], form: str = FORM) -> int:
    given = parse(arguments, form)
    place = Place(named_folder() or default_folder(), size_limit())
    cleared = given.verb == "clear"
    found = look(place.path, cleared)
    put((as_json if given.json else described)(place, found, cleared))
    return 0
