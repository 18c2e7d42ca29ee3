"""A region: everything of a stage that is not a matrix product, as ONE kernel, as frozen data.

A region is lines of elementwise work, reductions within a row, and sums over edges. Its kernel
(`compiler/kernels/region/kernel.py`) passes over rows once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]

STACK_BYTES = 64 * 1024  # of a kernel's stack, at most
OTHER_BYTES = 4 * 1024  # of them for register tiles and arguments, the rest for results of a row
ELEMENT_BYTES = 4  # of every dtype that lines have
ROOM_MULTIPLE = 16  # elements: in a room, a result begins where a cache line does
REDUCTIONS = frozenset({"sum", "max", "argmax"})
OWN_LOOP = REDUCTIONS | {"gather_sum", "pick", "concat"}  # share no loop with their operands


@dataclass(frozen=True)
class Array:
    """A parameter of the kernel: a row-major [rows, ld] buffer, or a vector if ld is 0.

    by_row: it is read at row `start + i` (and the kernel takes that start), otherwise it is
    addressed as a whole.
    """

    name: str
    dtype: str
    ld: int
    by_row: bool


@dataclass(frozen=True)
class Load:
    """Elements of an array, from `column` on: of row i, of row `array[index[i]]`, or of a vector.

    `array` and `index` are numbers of the region's arrays.
    """

    array: int
    column: int = 0
    index: int | None = None


@dataclass(frozen=True)
class Ref:
    """The result of line number `line`."""

    line: int


@dataclass(frozen=True)
class Constant:
    """A number, the same in every element."""

    value: float
    dtype: str = "float32"


@dataclass(frozen=True)
class View:
    """`base`, of shape `shape`, seen through a slice, a reshape or a transpose."""

    base: Load | Ref | Constant | View
    op: str
    shape: Shape
    axis: int = 0
    start: int = 0


Operand = Load | Ref | Constant | View


@dataclass(frozen=True)
class Store:
    """Where a line's result goes: columns from `column` on of row i of an array."""

    array: int
    column: int = 0


@dataclass(frozen=True)
class Line:
    """One result of a region: op, operands with their shapes, and the result's shape."""

    op: str
    args: tuple[Operand, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    dtype: str = "float32"
    attrs: tuple[tuple[str, Any], ...] = ()
    stores: tuple[Store, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return dict(self.attrs)[name]

    @property
    def size(self) -> int:
        """Elements of the result."""
        return max(1, prod(self.shape))


@dataclass(frozen=True)
class Room:
    """Memory for results of a row that are too wide for a stack: array number `array`.

    It has a row for each part of the rows that run at the same time. firsts: (line, where its
    result begins in that row).
    """

    array: int
    firsts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Region:
    """What one kernel does with every row: its parameters, and lines in order of computation.

    Results that one loop hands to another are row-local arrays: on the stack but for those in
    `rooms`.
    """

    arrays: tuple[Array, ...]
    lines: tuple[Line, ...]
    rooms: tuple[Room, ...] = ()

    @property
    def elements(self) -> int:
        """Elements computed per row, a measure of its work."""
        return sum(max(prod(s) for s in (line.shape, *line.shapes)) for line in self.lines)


def line_of(operand: Operand) -> int | None:
    """The number of the line that an operand reads, directly or through views."""
    while isinstance(operand, View):
        operand = operand.base
    return operand.line if isinstance(operand, Ref) else None


def phases(lines: Sequence[Line]) -> list[int]:
    """For every line, when its loop runs: after the loops that make what it reads out of step."""
    found: list[int] = []
    for line in lines:
        phase = 0
        for a, shape in zip(line.args, line.shapes, strict=True):
            if (read := line_of(a)) is not None:
                made = lines[read]
                own = {line.op, made.op} & OWN_LOOP
                in_step = isinstance(a, Ref) and shape == line.shape and not own
                phase = max(phase, found[read] + (0 if in_step else 1))
        found.append(phase)
    return found


def row_locals(lines: Sequence[Line]) -> list[int]:
    """The lines whose results are row-local arrays.

    They have a loop of their own, or another loop reads them.
    """
    order = phases(lines)
    found = {i for i, line in enumerate(lines) if line.op in OWN_LOOP}
    for i, line in enumerate(lines):
        for made in (r for a in line.args if (r := line_of(a)) is not None):
            if order[made] < order[i]:
                found.add(made)
    return sorted(found)


def too_wide(lines: Sequence[Line]) -> list[int]:
    """The row-local lines without which the others fit on the stack: the widest ones."""
    left = STACK_BYTES - OTHER_BYTES
    found = []
    for i in sorted(row_locals(lines), key=lambda i: (lines[i].size, i)):
        left -= lines[i].size * ELEMENT_BYTES
        if left < 0:
            found.append(i)
    return sorted(found)


def places_in_room(lines: Sequence[Line], chosen: Sequence[int]) -> tuple[list[int], int]:
    """Where the results of lines begin in a row of a room, and how wide the row is."""
    firsts, width = [], 0
    for i in chosen:
        firsts.append(width)
        width += -(-lines[i].size // ROOM_MULTIPLE) * ROOM_MULTIPLE
    return firsts, width
