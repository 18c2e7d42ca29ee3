"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, rename: `path` holds the old or the new content.

    Of a link the file that it names is written. A device or a pipe is written to as it is: to
    rename a file to /dev/null would do away with it.

    Raises:
        OSError: it could not be written, and what was there is still there, with nothing beside it;
            or the folder could not be flushed, and the new content is there until a power cut.
    """
    if _is_special(path):
        with path.open("wb") as file:
            file.write(content)
        return
    path = Path(os.path.realpath(path))
    beside = path.parent / f".{path.name}.part"
    try:
        with _open_for_writing(beside) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:  # Ctrl-C too
        beside.unlink(missing_ok=True)
        raise
    flush(path.parent)


def _is_special(path: Path) -> bool:
    """Whether something is there that is neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _open_for_writing(path: Path) -> BinaryIO:
    return path.open("wb")


def flush(path: Path) -> None:
    """Make what was written to a file, or renamed in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
