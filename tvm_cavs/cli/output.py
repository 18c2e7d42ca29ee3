"""The result of a command -> standard output, which may have no reader or no space left."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO, cast

from rich.console import Console
from rich.table import Table

from ..errors import CavsError


def put(text: str) -> None:
    """Print a result, as a line; a reader who has seen enough (`| head`) ends the process with 0.

    Raises:
        CavsError: it cannot be written, the disk of a file is full for instance.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _drop_what_is_buffered()
        raise SystemExit(0) from None
    except OSError as error:
        _drop_what_is_buffered()
        raise CavsError(
            f"the result cannot be written to standard output: {error.strerror}. Free some space, "
            "or send it elsewhere, and run the command again."
        ) from error


def put_table(table: Table) -> None:
    """The same of a table, as wide as the terminal."""
    kept = _Kept()
    Console(file=cast(TextIO, kept)).print(table)
    put("".join(kept.texts).removesuffix("\n"))


class _Kept:
    """Standard output in all that it says of itself; what is written to it is kept."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, text: str) -> int:
        self.texts.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


def _drop_what_is_buffered() -> None:
    """Python would fail once more, when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
