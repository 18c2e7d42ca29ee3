"""One function, several arguments at once: TVM and the linker run outside of Python's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..runtime import n_cores

T = TypeVar("T")


def on_all_cores(function: Callable[..., T], *columns: Iterable[Any]) -> list[T]:
    """`map` in threads; one call after the other where no thread can be started (ulimit -u)."""
    rows = list(zip(*columns, strict=True))
    try:
        with ThreadPoolExecutor(min(n_cores(), len(rows))) as pool:
            waiting = [pool.submit(function, *row) for row in rows]
            return [each.result() for each in waiting]
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        return [function(*row) for row in rows]
