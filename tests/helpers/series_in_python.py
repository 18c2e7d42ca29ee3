"""A series whose calls are made from Python, so that its kernels may be any functions."""

from collections.abc import Sequence
from typing import Any

from tvm_cavs.runtime.memory import HostMemory
from tvm_cavs.runtime.routine import Entry
from tvm_cavs.runtime.tables import SLICE_COLUMNS


class InPython:
    """In place of a `Series`, made by the method of that name of a planner."""

    def __init__(self, calls: Sequence[tuple[Any, Sequence[Any]]], n_integers: int) -> None:
        self._calls, self._n_integers = calls, n_integers

    def run(self, memory: HostMemory, integers: Sequence[int], given: Sequence[Any] = ()) -> None:
        assert len(integers) == self._n_integers
        row = [0] * SLICE_COLUMNS + list(integers)
        for function, arguments in self._calls:
            made, values = Entry((function,), (1,), tuple(arguments)).call(row, memory, (), given)
            made(*values)
