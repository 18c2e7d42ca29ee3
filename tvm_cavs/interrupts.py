"""Interrupts: what is done as a whole or not at all.

Python looks for signals between two bytecodes. So what one call of C does is never interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from operator import methodcaller

_call = methodcaller("__call__")


def in_one_go(results: Iterable[object]) -> None:
    """Let an iterator that needs no Python code run to its end; no signal comes in between."""
    deque(results, maxlen=0)


def call_all(functions: Iterable[Callable[[], object]]) -> None:
    """Call compiled functions, or `partial` of such, one after the other; no signal comes between.

    An error of one of them stops there.
    """
    in_one_go(map(_call, list(functions)))
