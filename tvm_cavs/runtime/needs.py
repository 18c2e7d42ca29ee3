"""Needs: which buffers a batch takes in its memory, and how their rows follow from a few sizes.

The one idea: buffers only grow, so what they hold is known without looking at each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le
from typing import NamedTuple

from .memory import HostMemory
from .roles import BufferId

ENDLESS = 1 << 62


class Need(NamedTuple):
    """A buffer with `each` rows for each of a size, and `more`; `size`: that one's place."""

    buffer: BufferId
    size: int
    ld: int = 0
    dtype: str = "int32"
    each: int = 1
    more: int = 0


class Needs:
    """The buffers of some needs, in any memory.

    Args:
        n_sizes: how many sizes a batch has.
    """

    def __init__(self, needs: Sequence[Need], n_sizes: int) -> None:
        self._needs, self._nothing = needs, [-1] * n_sizes

    def make_room(self, memory: HostMemory, sizes: Sequence[int]) -> None:
        """Let the buffers hold a batch of these sizes.

        Raises:
            OutOfMemoryError: there is no room for it.
        """
        if all(map(le, sizes, memory.beside.get(self, self._nothing))):
            return
        held = [ENDLESS] * len(sizes)
        for need in self._needs:
            i = need.size
            memory.rows(need.buffer, sizes[i] * need.each + need.more, need.ld, need.dtype)
            if need.each:
                room = (len(memory.read(need.buffer)) - need.more) // need.each
                held[i] = min(held[i], room)
        memory.beside[self] = held
