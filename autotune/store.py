"""The file of a user's records: read once, written whole after every measurement."""

from __future__ import annotations

from pathlib import Path

from tvm_cavs.compiler import Record, merged, read_records, usable_records, write_records
from tvm_cavs.errors import TuningError


class Store:
    """Records of one file, of which those about one target are looked at.

    Args:
        path: the file; it is made when there is something to write.
        target: of the records that are added. What is in the file about others stays there.

    Attributes:
        notes: in words, what of the file could not be used.
    """

    def __init__(self, path: Path, target: object) -> None:
        self.path, self._target = path, target
        self._seen = _signature(path)
        self._all, self.notes = read_records(path)
        found, foreign = usable_records(self._all, target)
        self.notes += foreign
        self._usable = list(found)

    def about(self, kernel: str) -> list[Record]:
        """The records of a kernel on the target, in the order in which they were measured."""
        return sorted((r for r in self._usable if r.kernel == kernel), key=lambda r: r.date)

    def add(self, record: Record) -> None:
        """Keep a record: what other processes have written meanwhile is kept too.

        Raises:
            TuningError: the file cannot be written.
        """
        self._usable = merged(self._usable, [record])
        theirs = [] if _signature(self.path) == self._seen else read_records(self.path)[0]
        self._all = merged(self._all, theirs, [record])
        try:
            write_records(self.path, self._all)
            self._seen = _signature(self.path)
        except OSError as error:
            raise TuningError(
                f"records cannot be kept in {self.path}: {error.strerror}. Give another file with "
                "tune.records=PATH"
            ) from error


def _signature(path: Path) -> tuple[int, ...]:
    """What changes when a file is written; nothing of one that is absent."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
