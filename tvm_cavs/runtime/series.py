"""Series: kernels that are called one after the other on one memory, in one compiled call.

Planning a batch takes a dozen small kernels. Called one by one from Python, the calls cost more
than what they do, and several times as much where weights have just taken the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import aligned
from .memory import HostMemory, table, tensor_of
from .roles import BufferId
from .routine import Argument, Column, Entry, Frames, Routine, Rows
from .tables import COUNT, SLICE_COLUMNS

Call = tuple[Any, Sequence[Argument]]  # a function and its arguments
Calls = Sequence[Call]
ORDER = table([0], "int32")  # of a routine that runs on one slice
KEPT = 32  # things that are kept beside a memory: those of a few networks' states


def integer(place: int) -> Column:
    """An argument that is one of the integers that a run is given, by its place among them."""
    return Column(SLICE_COLUMNS + place)


def rows_of(*buffers: BufferId) -> list[Argument]:
    """Arguments that are these buffers."""
    return [Rows(buffer) for buffer in buffers]


class Series:
    """Calls in a fixed order; any number of threads may run it, each on memory of its own.

    Args:
        kernel: the routine's. calls: functions, with their arguments. n_integers: how many integers
            a run is given.
    """

    def __init__(self, kernel: Callable[..., Any], calls: Calls, n_integers: int) -> None:
        steps = [Entry((function,), (1,), tuple(arguments)) for function, arguments in calls]
        self._routine, self._width = Routine(kernel, [steps], [1]), SLICE_COLUMNS + n_integers

    def run(self, memory: HostMemory, integers: Sequence[int], given: Sequence[Any] = ()) -> None:
        """Make the calls.

        Args:
            integers: those that `integer` means. given: the tensors that `Given` means.
        """
        frames, row, slices = memory.beside.get(self) or self._begin(memory)
        row[SLICE_COLUMNS:] = integers
        frames.run(memory, 0, 1, self._width, ORDER, slices, given)

    def _begin(self, memory: HostMemory) -> tuple[Frames, Any, Any]:
        """What a run in this memory needs: frames, and the slice that it runs on."""
        if len(memory.beside) >= KEPT:  # of what is long gone
            memory.beside.clear()
        row = aligned((self._width,), "int64")
        row[COUNT] = 1
        memory.beside[self] = made = Frames(self._routine), row, tensor_of(row)
        return made
