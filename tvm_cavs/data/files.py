"""A path, plain or compressed -> its text lines with their numbers, or a DataError.

The one idea: every reader names file and line, so every reader takes its lines from here.
"""

from __future__ import annotations

import difflib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import DataError

# What a file begins with that is no text: how it is opened, or None and its name.
OPENERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
}
UNREAD = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2 data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
LONGEST_MARK = 6


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of every line that is not blank.

    Lines end at a line feed only, or at a carriage return and a line feed; other Unicode spaces and
    separators are part of the text. A byte order mark at the beginning is none of the text. The
    file is opened once, so a pipe can be read.

    Raises:
        DataError: no such file, an empty file, damaged xz or gzip data, or bytes that are not
            UTF-8.
    """
    number = 0
    found = False
    try:
        with _open(path) as file, _text(path, file) as lines:
            for number, raw in enumerate(lines, start=1):
                line = raw.rstrip("\r\n")
                if line.strip(" \t"):
                    found = True
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, after line {number}: not UTF-8 text ({error.reason}).") from error
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise DataError(
            f"{path}, after line {number}: damaged or truncated xz or gzip data ({error}). "
            "Fetch it again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}, after line {number}: cannot be read: {error.strerror}."
        ) from error
    if not found:
        raise DataError(f"{path} is empty; expected at least one line of data.")


def nearest(word: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest known name, or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names)}."


def _open(path: str | Path) -> io.BufferedReader:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path} cannot be read: {why}.{_packed(path)}") from error


def _text(path: str | Path, file: io.BufferedReader) -> IO[str]:
    """The text of an open file, decompressed where its first bytes say so."""
    start = file.peek(LONGEST_MARK)
    for mark, what in UNREAD.items():
        if start.startswith(mark):
            raise DataError(
                f"{path} is {what}; expected lines of UTF-8 text, plain, .xz or .gz. "
                "Unpack or convert it first."
            )
    content: Any = file
    for mark, opener in OPENERS.items():
        if start.startswith(mark):
            content = opener(file)
    return io.TextIOWrapper(content, encoding="utf-8-sig", newline="\n")


def _packed(path: str | Path) -> str:
    """A hint where only the compressed file is there."""
    try:
        packed = Path(path).with_name(Path(path).name + ".xz")
        return f" Did you mean {packed}?" if packed.exists() else ""
    except (OSError, ValueError, TypeError):
        return ""
