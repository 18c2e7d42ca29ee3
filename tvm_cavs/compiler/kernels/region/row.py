"""One row of a region inside its kernel: elements of operands, loops over elements, stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.region import Constant, Line, Load, Operand, Ref, Region, Shape, View
from ..loopnest import Buffer, Expr, int64, loop
from .elementwise import constant

Index = tuple[Expr, ...]


@dataclass(frozen=True)
class Local:
    """A row-local array: a buffer of its own, or elements from `first` on of a row of one."""

    buffer: Buffer
    row: Index = ()
    first: int = 0

    def __getitem__(self, position: Expr) -> Expr:
        return self.buffer[self._at(position)]

    def put(self, position: Expr, value: Expr) -> None:
        """Set one element."""
        T.buffer_store(self.buffer, value, [*self._at(position)])

    def _at(self, position: Expr) -> Index:
        return *self.row, position + self.first if self.first else position


@dataclass
class Row:
    """Row i of a region while its code is written.

    buffers: the kernel's parameters; rows: this row in each of them (None: addressed as a whole);
    locals: row-local arrays of the lines whose results another loop reads; in_loop: the elements
    of the lines that the loop being written has computed; coming: the next row, or once more the
    last one, in each of the buffers, if its lines are asked for.
    """

    spec: Region
    lanes: int
    buffers: Sequence[Buffer]
    rows: Sequence[Expr]
    locals: Mapping[int, Local]
    in_loop: dict[int, Expr] = field(default_factory=dict)
    coming: Sequence[Expr] = ()

    def at(self, operand: Operand, shape: Shape, index: Index) -> Expr:
        """The operand's element at `index`."""
        if isinstance(operand, Constant):
            if operand.dtype == "int32":
                return tirx.IntImm("int32", int(operand.value))
            return constant(operand.value)
        if isinstance(operand, View):
            return self.at(operand.base, operand.shape, through(operand, shape, index))
        if isinstance(operand, Ref):
            if operand.line in self.in_loop and self.spec.lines[operand.line].shape == shape:
                return self.in_loop[operand.line]
            return self.locals[operand.line][flat(index, shape)]
        return self._load(operand, flat(index, shape))

    def _load(self, load: Load, position: Expr) -> Expr:
        array, buffer = self.spec.arrays[load.array], self.buffers[load.array]
        row = self.rows[load.array]
        if load.index is not None:
            row = self.buffers[load.index][self.rows[load.index]].astype("int64")
        if not array.by_row and load.index is None:
            return buffer[position + load.column]
        return buffer[row, position + load.column] if array.ld else buffer[row]

    def over(
        self,
        shape: Shape,
        body: Callable[[Index, Expr], None],
        before: Callable[[Index], None] | None = None,
        prefix: Index = (),
    ) -> None:
        """`body(index, lane)` for every element, the last axis in vectors.

        `before(index of the first)` runs before each whole vector.
        """
        if not shape:
            body(prefix, int64(0))
        elif len(shape) == 1:
            full, rest = divmod(shape[0], self.lanes)
            if full:
                with loop(full) as v:
                    if before is not None:
                        before((*prefix, v * self.lanes))
                    with loop(self.lanes, "lane") as lane:
                        body((*prefix, v * self.lanes + lane), lane)
            if rest == 1:
                body((*prefix, int64(full * self.lanes)), int64(0))
            elif rest:
                with loop(rest, "lane") as lane:
                    body((*prefix, int64(full * self.lanes) + lane), lane)
        else:
            with loop(shape[0]) as k:
                self.over(shape[1:], body, before, (*prefix, k))

    def over_serial(self, shape: Shape, body: Callable[[Index], None], prefix: Index = ()) -> None:
        """`body(index)` for every element, one after the other."""
        if not shape:
            body(prefix)
        else:
            with loop(shape[0]) as k:
                self.over_serial(shape[1:], body, (*prefix, k))

    def store(self, line: Line, value: Expr, position: Expr) -> None:
        """Give one element of a line's result to all its stores."""
        for s in line.stores:
            array, row = self.spec.arrays[s.array], self.rows[s.array]
            at = [row, position + s.column] if array.ld else [row]
            T.buffer_store(self.buffers[s.array], value, at)

    def store_local(self, i: int, line: Line) -> None:
        """Give a finished row-local result to its stores."""

        def put(index: Index, _: Expr) -> None:
            position = flat(index, line.shape)
            self.store(line, self.locals[i][position], position)

        if line.stores:
            self.over(line.shape, put)


def flat(index: Index, shape: Shape) -> Expr:
    """Row-major position of `index`."""
    position: Expr = int64(0)
    for k, n in zip(index, shape, strict=True):
        first = isinstance(position, tirx.IntImm) and position.value == 0
        position = k if first else position * n + k
    return position


def broadcast(index: Index, shape: Shape) -> Index:
    """The index into an operand of `shape` that broadcasts to the line's shape."""
    own = index[len(index) - len(shape) :]
    return tuple(int64(0) if n == 1 else k for k, n in zip(own, shape, strict=True))


def through(view: View, shape: Shape, index: Index) -> Index:
    """An index into a view, which has `shape`, as one into its base."""
    if view.op == "slice":
        return tuple(k + view.start if axis == view.axis else k for axis, k in enumerate(index))
    if view.op == "transpose":
        return index[::-1]
    position, out = flat(index, shape), []
    for n in reversed(view.shape):
        out.append(position % n if len(view.shape) > 1 else position)
        position = position // n
    return tuple(reversed(out))
