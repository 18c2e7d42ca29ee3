"""Interrupts: what is done as a whole or not at all.

Python looks for signals between two bytecodes. So what one call of C does is never interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from operator import methodcaller

_call = methodcaller("__call__")
_run_out: Callable[[Iterable[object]], None] = deque[object](maxlen=0).extend  # keeps nothing


def in_one_go(*results: Iterable[object]) -> None:
    """Let iterators that need no Python code run to their ends; no signal comes in between.

    An error in one of them stops there.
    """
    _run_out(chain(*results))


def called(functions: Iterable[Callable[[], object]]) -> Iterator[object]:
    """For `in_one_go`: what compiled functions return, or a `partial` of such."""
    return map(_call, functions)


def assigned(things: Iterable[object], name: str, values: Iterable[object]) -> Iterator[object]:
    """For `in_one_go`: gives each thing its value of an attribute."""
    return map(setattr, things, repeat(name), values)  # type: ignore[func-returns-value]
