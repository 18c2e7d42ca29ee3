"""Records of measurements on disk -> what was chosen for each kernel of a target.

Records that `tvm-cavs tune` writes lie beside the kernel cache; others are shipped with the package
`autotune`, which is not imported for that. Where nothing was measured the target's defaults hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import target_rules
from .target_rules import UNTUNED, Chosen, Record, merged, read_records, usable_records

SHIPPED = Path(__file__).parents[2] / "autotune" / "records"
FILE = "records.json"  # in the folder of the cache


@dataclass(frozen=True)
class Source:
    """A file of records. `foreign`: it is expected to be about several targets."""

    path: Path
    foreign: bool = False


def records_of(cache: Path | None, given: Any) -> list[Source]:
    """The files that hold, the most important one last: shipped ones, then the user's own.

    Args:
        given: a file instead of the one in the folder `cache`; False for no files at all.
    """
    if given is False:
        return []
    sources = [Source(path, foreign=True) for path in sorted(SHIPPED.glob("*.json"))]
    own = given if given is not None else cache and cache / FILE
    return [*sources, Source(Path(own).expanduser())] if own else sources


class Tuned:
    """What has been measured on a target, and what follows for a kernel.

    Attributes:
        notes: in words, what was found and cannot be used; a warning says so too.
        used: what measurements have chosen so far, by kernel.
    """

    def __init__(self, target: Any, sources: Sequence[Source]) -> None:
        self.notes: list[str] = []
        self.used: dict[str, Chosen] = {}
        found: list[list[Record]] = []
        for source in sources:
            read, notes = read_records(source.path)
            usable, others = usable_records(read, target)
            found.append(usable)
            self.notes += [*notes, *(() if source.foreign else others)]
        for note in self.notes:
            warnings.warn(note, stacklevel=5)
        self._by_kernel: dict[str, list[Record]] = {}
        for record in merged(*found):
            self._by_kernel.setdefault(record.kernel, []).append(record)

    def choose(self, key: str, default: Callable[..., Any]) -> Chosen:
        """The knobs of a kernel by row count; `default`: its default ones, given shared ones."""
        measured = [r for r in self._by_kernel.get(key, ()) if not r.failed]
        chosen = target_rules.choose(default, measured) if measured else UNTUNED
        if chosen != UNTUNED:
            self.used[key] = chosen
        return chosen
