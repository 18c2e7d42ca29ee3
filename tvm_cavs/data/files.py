"""A path, xz-compressed or plain -> its text lines with their numbers, or a DataError.

The one idea: every reader names file and line, so every reader takes its lines from here.
"""

from __future__ import annotations

import difflib
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tvm_cavs.errors import DataError

XZ_MAGIC = b"\xfd7zXZ\x00"


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not blank.

    Lines end at a line feed only; other Unicode spaces and separators are part of the text.

    Raises:
        DataError: no such file, an empty file, damaged xz, or bytes that are not UTF-8.
    """
    number = 0
    found = False
    try:
        with _open(Path(path)) as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.rstrip("\r\n")
                if line.strip(" \t"):
                    found = True
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 text ({error.reason}).") from error
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(
            f"{path}, after line {number}: damaged or truncated xz data ({error}). Fetch it again."
        ) from error
    if not found:
        raise DataError(f"{path} is empty; expected at least one line of data.")


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest known name, or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}."


def _open(path: Path) -> IO[str]:
    try:
        with path.open("rb") as file:
            is_xz = file.read(len(XZ_MAGIC)) == XZ_MAGIC
    except OSError as error:
        packed = path.with_name(path.name + ".xz")
        remedy = f" Did you mean {packed}?" if packed.exists() else ""
        raise DataError(f"{path} cannot be read: {error.strerror}.{remedy}") from error
    if is_xz:
        return lzma.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")
