"""Renewal: what has to be made anew in a forked process.

A fork copies one thread. A lock that another one held stays locked for ever in the copy.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

_renewed: list[tuple[weakref.ref[Any], Callable[[Any], None]]] = []


def renewed_after_fork(owner: Any, renew: Callable[[Any], None]) -> None:
    """In a forked child call `renew(owner)`, as long as `owner` is there."""
    _renewed[:] = [entry for entry in _renewed if entry[0]() is not None]
    _renewed.append((weakref.ref(owner), renew))


def _after_fork() -> None:
    for ref, renew in list(_renewed):
        owner = ref()
        if owner is not None:
            renew(owner)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
