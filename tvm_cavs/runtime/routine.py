"""Routine: kernel calls as tables of integers, so that one compiled call makes all of a pass.

A group has steps; a step calls a kernel, in the form that suits the rows of the slice it runs on,
with integers out of the slice's row and with whole buffers. All of it but the integers is written
down once for each memory, in frames as TVM's foreign function interface takes them.
"""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ..arrays import aligned
from .memory import Both, HostMemory, table, tensor_of
from .roles import BufferId
from .tables import COUNT, FORM_COLUMNS, MOVE_COLUMNS, STEP_COLUMNS, WORDS

# of tvm/ffi/c_api.h
INT, TENSOR = 1, 70  # kTVMFFIInt, kTVMFFITensor
HEADER = 24  # bytes of TVMFFIObject, which a function's pointer follows

Memory = Both | HostMemory
Call = tuple[Any, tuple[Any, ...]]  # a function and its arguments


class Column(NamedTuple):
    """An argument that a slice's row has in this column."""

    number: int


class Unless(NamedTuple):
    """An argument that is 0 if this buffer is among those given to `choose`, else 1."""

    buffer: BufferId


class Rows(NamedTuple):
    """An argument that is a whole buffer."""

    buffer: BufferId


class Number(NamedTuple):
    """An argument that is always this integer."""

    value: int


class Held(NamedTuple):
    """An argument that is always this tensor."""

    tensor: Any


class Given(NamedTuple):
    """An argument that is one of the tensors that a run is given, by its place among them."""

    place: int


Argument = Column | Unless | Rows | Number | Held | Given


@dataclass(frozen=True)
class Entry:
    """One step: `functions[i]` serves row counts from `limits[i]` on."""

    functions: tuple[Any, ...]
    limits: tuple[int, ...]
    arguments: tuple[Argument, ...]

    def call(
        self,
        row: Sequence[int],
        memory: Both | HostMemory,
        chosen: Collection[BufferId],
        given: Sequence[Any] = (),
    ) -> Call:
        """The call that the routine makes for a slice, to be made from Python."""

        def value(a: Argument) -> Any:
            match a:
                case Rows(buffer):
                    return memory.tensor(buffer)
                case Column(number):
                    return row[number]
                case Unless(buffer):
                    return int(buffer not in chosen)
                case Given(place):
                    return given[place]
                case Number(fixed) | Held(fixed):
                    return fixed

        function = self.functions[bisect_right(self.limits, row[COUNT]) - 1]
        return function, tuple(map(value, self.arguments))


class Routine:
    """The tables of some groups of steps.

    Args:
        kernel: that of `compiler/kernels/host/routine.py`, compiled.
        groups: the steps of each.
        parts: for each group the most rows that its steps run on at once.
    """

    def __init__(
        self,
        kernel: Callable[..., Any],
        groups: Sequence[Sequence[Entry]],
        parts: Sequence[int],
    ) -> None:
        self.kernel, self.entries = kernel, [e for group in groups for e in group]
        self.groups = _table([0, *accumulate(len(group) for group in groups)])
        self.parts = _table(parts)
        steps: list[int] = []
        forms: list[int] = []
        moves: list[int] = []
        self.template: list[int] = []
        self.buffers: list[tuple[int, BufferId]] = []  # word of the frames, what goes there
        self.choices: list[tuple[int, BufferId]] = []
        self.given: list[tuple[int, int]] = []
        for e in self.entries:
            first_form, first_move, frame = len(forms), len(moves), len(self.template)
            for limit, function in zip(e.limits, e.functions, strict=True):
                forms += limit, *_address(function)
            for a in e.arguments:
                word, value = len(self.template) + 1, 0
                match a:
                    case Column(number):
                        moves += word, number
                    case Rows(buffer):
                        self.buffers.append((word, buffer))
                    case Unless(buffer):
                        self.choices.append((word, buffer))
                    case Given(place):
                        self.given.append((word, place))
                    case Number(fixed):
                        value = fixed
                    case Held(tensor):
                        value = tensor.__chandle__()
                self.template += TENSOR if isinstance(a, Rows | Held | Given) else INT, value
            for begin, all_, columns in (
                (first_form, forms, FORM_COLUMNS),
                (first_move, moves, MOVE_COLUMNS),
            ):
                steps += begin // columns, len(all_) // columns
            steps += frame, (len(self.template) - frame) // WORDS
        assert len(steps) == STEP_COLUMNS * len(self.entries)
        self.tables = tuple(map(_table, (steps, forms, moves)))


class Frames:
    """A routine's arguments, for one call at a time, in the memory where it ran last.

    A memory must not go before the frames do: it is known by its address.
    """

    def __init__(self, routine: Routine) -> None:
        self._routine = routine
        self._seen: tuple[int, int] | None = None  # memory and version, when buffers were looked up
        self._words = aligned((max(1, len(routine.template)),), "int64")
        self._words[: len(routine.template)] = routine.template
        self._frames = tensor_of(self._words)
        self._result = aligned((2,), "int64")
        self._result_tensor = tensor_of(self._result)
        self._at = np.array([word for word, _ in routine.buffers], int)
        self._choice_at = np.array([word for word, _ in routine.choices], int)
        self._given_at = np.array([word for word, _ in routine.given], int)
        self._chosen: Collection[BufferId] | None = None
        self._held: list[Any] = []
        self.choose(())

    def choose(self, buffers: Collection[BufferId]) -> None:
        """Make the arguments `Unless` a buffer of these 0, the others 1; at first all are 1."""
        if buffers is not self._chosen:
            self._words[self._choice_at] = [b not in buffers for _, b in self._routine.choices]
            self._chosen = buffers

    def run(
        self,
        memory: Memory,
        first: int,
        n: int,
        width: int,
        order: Any,
        slices: Any,
        given: Sequence[Any] = (),
    ) -> None:
        """Run slices order[first], ..., order[first + n - 1]; each is `width` integers of `slices`.

        Args:
            memory: where the routine's buffers lie. given: the tensors of this run.

        Raises:
            RuntimeError: what a kernel says of arguments that it cannot take.
        """
        r, seen = self._routine, (id(memory), memory.version)
        if seen != self._seen:
            self._held = [memory.tensor(buffer) for _, buffer in r.buffers]
            self._words[self._at] = [tensor.__chandle__() for tensor in self._held]
            self._seen = seen
        if r.given:
            self._words[self._given_at] = [given[place].__chandle__() for _, place in r.given]
        tables = order, slices, r.groups, r.parts, *r.tables, self._frames, self._result_tensor
        r.kernel(first, n, width, *tables)
        if self._result[0]:
            place = int(self._result[0]) - 1 + first
            begin = int(np.from_dlpack(order)[place]) * width
            row = np.from_dlpack(slices)[begin : begin + width].tolist()
            self._again(row, memory, given)

    def _again(self, row: list[int], memory: Memory, given: Sequence[Any]) -> None:
        """Make the call that failed on this slice from Python, where it can say why."""
        entry = self._routine.entries[int(self._result[1]) - 1]
        function, arguments = entry.call(row, memory, self._chosen or (), given)
        function(*arguments)
        raise RuntimeError(f"a kernel failed on slice {row} and, called once more, did not")


def _table(values: Sequence[int]) -> Any:
    return table(values, "int64")


def _address(function: Any) -> tuple[int, int]:
    """Pointers to a compiled function's code, and to the object that it is given."""
    handle = function.__chandle__()
    code = ctypes.c_void_p.from_address(handle + HEADER).value
    assert code is not None
    return code, handle
