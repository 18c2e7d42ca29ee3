"""How much memory may be taken: what asks for more is refused before it is allocated, in words.

Otherwise the kernel of the operating system ends the process, or it swaps. Asked only where buffers
grow by much, so a step that finds its buffers large enough pays nothing.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import ConfigError, OutOfMemoryError

SHARE = 0.9  # of the memory that is left, for buffers
SMALL = 64 << 20  # bytes: growth below it is not asked about
VARIABLE = "TVM_CAVS_MEMORY"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SHOWN = 3  # of the largest buffers
GROUPS = {  # of a control group: its limit, what it uses, what of that it can give back
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


Remedy = Callable[[int], str]


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take; None where nobody says.

    The least of what the machine, the control groups of a container, and `ulimit -v` leave.
    """
    found = [*_of_machine(root), *_of_groups(root), *_of_ulimit(root)]
    return max(0, min(found)) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    known = re.search(r"^MemAvailable:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if known:
        yield int(known[1]) << 10
    elif "SC_PHYS_PAGES" in os.sysconf_names:
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        yield os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _of_groups(root: Path) -> Iterator[int]:
    """What the limits of the process's control group leave, and of those above it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if controllers else 2
        if version == 1 and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if version == 1 else "")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            yield from _left_by(folder, *GROUPS[version])


def _left_by(folder: Path, limit: str, used: str, reclaimed: str) -> Iterator[int]:
    most, now = _text(folder / limit).strip(), _text(folder / used).strip()
    if most.isdecimal() and now.isdecimal():  # "max" is no limit
        stat = _text(folder / "memory.stat")
        cached = re.search(rf"^{reclaimed} (\d+)$", stat, re.MULTILINE)
        yield int(most) - int(now) + (int(cached[1]) if cached else 0)


def _of_ulimit(root: Path) -> Iterator[int]:
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = _text(root / "proc/self/statm").split()
    if most != resource.RLIM_INFINITY and pages:
        yield most - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _text(path: Path) -> str:
    """The text of a file of the kernel's, "" where there is none; paths in it are of any bytes."""
    try:
        return path.read_text(encoding="ascii", errors="surrogateescape")
    except OSError:
        return ""


def most_bytes(held: int) -> int | None:
    """The most that buffers may take which now take `held`: as TVM_CAVS_MEMORY says, or SHARE.

    None: no limit is known, or it says "unlimited".

    Raises:
        ConfigError: TVM_CAVS_MEMORY is no size.
    """
    given = _given()
    if given.lower() == "unlimited":
        return None
    if given:
        return parse(given)
    left = available()
    return None if left is None else held + int(SHARE * left)


def parse(given: str) -> int:
    """Bytes, of a text such as "8G" or "500M".

    Raises:
        ConfigError: it is no size.
    """
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", given, re.IGNORECASE)
    if not size or not float(size[1]):
        raise ConfigError(
            f'{VARIABLE}: expected a size such as 8G or 500M, or "unlimited", given {given!r:.60}'
        )
    return int(float(size[1]) * UNITS[size[2].upper()])


def check_room(what: str, sizes: Mapping[str, int], held: int, remedy: Remedy) -> int | None:
    """Refuses buffers of more than may be taken; returns how much that is, None if nobody asked.

    Args:
        what: who needs them. sizes: bytes of every buffer, by name. held: bytes of those that they
            take the place of. remedy: says what fits, given the bytes that may be taken.

    Raises:
        OutOfMemoryError: they need more.
    """
    need = sum(sizes.values())
    if need - held < SMALL and not _given():
        return None
    most = most_bytes(held)
    if most is not None and need > most:
        raise OutOfMemoryError(
            f"{what} needs {shown(need)} for its buffers, and {shown(most)} may be taken "
            f"({_why()}). The largest: {_largest(sizes)}. {remedy(most)}"
        )
    return most


def _given() -> str:
    """What the variable says; nothing where it is empty, as in `TVM_CAVS_MEMORY= tvm-cavs ...`."""
    return os.environ.get(VARIABLE, "").strip()


def _why() -> str:
    if given := _given():
        return f"{VARIABLE}={given}"
    return f"{SHARE:.0%} of the memory that is left; {VARIABLE} sets another limit"


def _largest(sizes: Mapping[str, int]) -> str:
    first = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]
    return ", ".join(f"{name} {shown(size)}" for name, size in first if size)


def shown(n_bytes: int) -> str:
    """Bytes in the unit that suits them."""
    unit = next((u for u in "TGMK" if n_bytes >= UNITS[u]), "")
    return f"{n_bytes / UNITS[unit]:.1f} {unit}iB" if unit else f"{n_bytes} bytes"
