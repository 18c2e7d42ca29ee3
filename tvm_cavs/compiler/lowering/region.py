"""A region: everything of a stage that is not a matrix product, as ONE kernel, as frozen data.

A region is lines of elementwise work, reductions within a row, and sums over edges. Its kernel
(`compiler/kernels/region/kernel.py`) passes over rows once.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

Shape = tuple[int, ...]

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
class Region:
    """What one kernel does with every row: its parameters, and lines in order of computation."""

    arrays: tuple[Array, ...]
    lines: tuple[Line, ...]

    @property
    def elements(self) -> int:
        """Elements computed per row, a measure of its work."""
        return sum(max(prod(s) for s in (line.shape, *line.shapes)) for line in self.lines)


def line_of(operand: Operand) -> int | None:
    """The number of the line that an operand reads, directly or through views."""
    while isinstance(operand, View):
        operand = operand.base
    return operand.line if isinstance(operand, Ref) else None


def phases(region: Region) -> list[int]:
    """For every line, when its loop runs: after the loops that make what it reads out of step."""
    found: list[int] = []
    for line in region.lines:
        phase = 0
        for a, shape in zip(line.args, line.shapes, strict=True):
            if (read := line_of(a)) is not None:
                made = region.lines[read]
                own = {line.op, made.op} & OWN_LOOP
                in_step = isinstance(a, Ref) and shape == line.shape and not own
                phase = max(phase, found[read] + (0 if in_step else 1))
        found.append(phase)
    return found
