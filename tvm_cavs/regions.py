"""A region: everything of a stage that is not a matrix product, as ONE kernel that passes over rows once.

A region is lines of elementwise work, reductions within a row, and sums over edges. It becomes loops
over the row's elements: lines of one shape whose operands are element for element share a loop, every value is
computed once and kept in a register; only a value that another loop needs goes through a row-local array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from . import dropout, polynomials
from .loopnest import arrays, int64, kernel, loop, scalars, scratch, vectors

Expr = Any
Index = tuple[Expr, ...]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Array:
    """A parameter of the kernel.

    ld > 0: a row-major [rows, ld] buffer; ld == 0: a vector. `by_row`: it is read at row `start + i` (and the
    kernel takes that start), otherwise it is addressed as a whole.
    """

    name: str
    dtype: str
    ld: int
    by_row: bool


@dataclass(frozen=True)
class Load:
    """Elements of an array: those of row i, from `column` on; of row `array[index[i]]`; or of a whole vector."""

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
    """`base` seen through a slice, a reshape or a transpose: `shape` is that of the view's source."""

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
    """One result of a region: op, operands with their shapes, and its shape."""

    op: str
    args: tuple[Operand, ...]
    shapes: tuple[Shape, ...]
    shape: Shape
    dtype: str = "float32"
    attrs: tuple[tuple[str, Any], ...] = ()
    stores: tuple[Store, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return dict(self.attrs)[name]


@dataclass(frozen=True)
class Region:
    arrays: tuple[Array, ...]
    lines: tuple[Line, ...]

    @property
    def elements(self) -> int:
        """Elements computed per row, a measure of its work."""
        return sum(
            max(int(np.prod(s, dtype=int)) for s in (line.shape, *line.shapes))
            for line in self.lines
        )


REDUCTIONS = frozenset({"sum", "max", "argmax"})
OWN_LOOP = REDUCTIONS | {
    "gather_sum",
    "pick",
    "concat",
}  # lines that do not share a loop with their operands


def base_of(operand: Operand) -> Operand:
    while isinstance(operand, View):
        operand = operand.base
    return operand


def phases(region: Region) -> list[int]:
    """The order of loops: a line runs after the loops that make what it reads out of step."""
    found: list[int] = []
    for line in region.lines:
        phase = 0
        for a, shape in zip(line.args, line.shapes, strict=True):
            base = base_of(a)
            if isinstance(base, Ref):
                made = region.lines[base.line]
                in_step = (
                    isinstance(a, Ref)
                    and shape == line.shape
                    and not ({line.op, made.op} & OWN_LOOP)
                )
                phase = max(phase, found[base.line] + (0 if in_step else 1))
        found.append(phase)
    return found


def region(spec: Region, lanes: int, tasks: int, name: str) -> tirx.PrimFunc:
    """f(n, start of each by-row array..., arrays...): the region on n rows."""

    def emit() -> None:
        by_row = [a for a in spec.arrays if a.by_row]
        n, *starts = scalars(["n", *(f"start_{a.name}" for a in by_row)])
        buffers = arrays(
            [(a.name, (None, a.ld) if a.ld else (None,), a.dtype) for a in spec.arrays]
        )
        first = dict(zip((a.name for a in by_row), starts, strict=True))
        with loop(tasks, "task") as task:
            begin, count = (int64(0), n) if tasks == 1 else _rows(task, tasks, n)
            locals_ = _locals(spec)
            with loop(count) as i:
                row = T.bind(begin + i)
                rows = [T.bind(first[a.name] + row) if a.by_row else None for a in spec.arrays]
                _Row(spec, lanes, buffers, rows, locals_).emit()

    return kernel(name, "region", emit)


def _rows(task: Expr, tasks: int, n: Expr) -> tuple[Expr, Expr]:
    begin = T.bind(task * n // int64(tasks))
    return begin, T.bind((task + 1) * n // int64(tasks) - begin)


def _locals(spec: Region) -> dict[int, Any]:
    """Row-local arrays of the lines whose results another loop reads."""
    order, found = phases(spec), {}
    for i, line in enumerate(spec.lines):
        for a in line.args:
            base = base_of(a)
            if isinstance(base, Ref):
                made = spec.lines[base.line]
                if order[base.line] < order[i] or made.shape != line.shape or made.op in OWN_LOOP:
                    found[base.line] = max(1, int(np.prod(made.shape, dtype=int)))
    for i, line in enumerate(spec.lines):
        if line.op in OWN_LOOP:
            found[i] = max(1, int(np.prod(line.shape, dtype=int)))
    return {i: scratch([n], "local", spec.lines[i].dtype) for i, n in sorted(found.items())}


class _Row:
    """Emits one row: its loops in order."""

    def __init__(
        self,
        spec: Region,
        lanes: int,
        buffers: Sequence[Any],
        rows: Sequence[Expr],
        locals_: dict[int, Any],
    ) -> None:
        self.spec, self.lanes, self.buffers, self.rows, self.locals = (
            spec,
            lanes,
            buffers,
            rows,
            locals_,
        )
        self.keys: dict[int, Expr] = {}
        self.in_loop: dict[int, Expr] = {}

    def emit(self) -> None:
        order = phases(self.spec)
        for i, line in enumerate(self.spec.lines):
            if line.op == "dropout":
                self.keys[i] = self._row_key(line)
        for phase in range(max(order, default=-1) + 1):
            now = [i for i in range(len(order)) if order[i] == phase]
            shared: dict[Shape, list[int]] = {}
            for i in now:
                line = self.spec.lines[i]
                if line.op in OWN_LOOP:
                    OWN[line.op](self, i, line)
                    self._store_local(i, line)
                else:
                    shared.setdefault(line.shape, []).append(i)
            for shape, members in shared.items():
                self._loop(shape, members)

    def _loop(self, shape: Shape, members: Sequence[int]) -> None:
        held = {i: scratch([self.lanes], "local", self.spec.lines[i].dtype) for i in members}

        def body(index: Index, lane: Expr) -> None:
            self.in_loop = {}
            for i in members:
                line = self.spec.lines[i]
                args = [
                    self.at(a, s, _broadcast(index, s))
                    for a, s in zip(line.args, line.shapes, strict=True)
                ]
                # Through a register array, not a let: TVM substitutes lets, and trees of them explode.
                T.buffer_store(held[i], self._compute(i, line, args, index), [lane])
                value = self.in_loop[i] = held[i][lane]
                flat = _flat(index, shape)
                if i in self.locals:
                    T.buffer_store(self.locals[i], value, [flat])
                self._store(line, value, flat)

        self.over(shape, body)
        self.in_loop = {}

    def over(self, shape: Shape, body: Callable[[Index, Expr], None], prefix: Index = ()) -> None:
        """`body(index, lane)` for every element, the last axis in vectors."""
        if not shape:
            body(prefix, int64(0))
        elif len(shape) == 1:
            full, rest = divmod(shape[0], self.lanes)
            if full:
                with loop(full) as v, loop(self.lanes, "lane") as lane:
                    body((*prefix, v * self.lanes + lane), lane)
            if rest == 1:
                body((*prefix, int64(full * self.lanes)), int64(0))
            elif rest:
                with loop(rest, "lane") as lane:
                    body((*prefix, int64(full * self.lanes) + lane), lane)
        else:
            with loop(shape[0]) as k:
                self.over(shape[1:], body, (*prefix, k))

    def over_serial(self, shape: Shape, body: Callable[[Index], None], prefix: Index = ()) -> None:
        """`body(index)` for every element, one after the other."""
        if not shape:
            body(prefix)
        else:
            with loop(shape[0]) as k:
                self.over_serial(shape[1:], body, (*prefix, k))

    def _store(self, line: Line, value: Expr, flat: Expr) -> None:
        for s in line.stores:
            array, row = self.spec.arrays[s.array], self.rows[s.array]
            at = [row, flat + s.column] if array.ld else [row]
            T.buffer_store(self.buffers[s.array], value, at)

    def _store_local(self, i: int, line: Line) -> None:
        """Give a finished row-local result to its stores."""
        if line.stores:
            self.over(
                line.shape,
                lambda index, _: self._store(
                    line, self.locals[i][_flat(index, line.shape)], _flat(index, line.shape)
                ),
            )

    def at(self, operand: Operand, shape: Shape, index: Index) -> Expr:
        """The operand's element at `index`."""
        if isinstance(operand, Constant):
            if operand.dtype == "int32":
                return tirx.IntImm("int32", int(operand.value))
            return tirx.FloatImm("float32", operand.value)
        if isinstance(operand, View):
            return self.at(operand.base, operand.shape, _through(operand, shape, index))
        if isinstance(operand, Ref):
            if operand.line in self.in_loop and self.spec.lines[operand.line].shape == shape:
                return self.in_loop[operand.line]
            return self.locals[operand.line][_flat(index, shape)]
        return self._load(operand, _flat(index, shape))

    def _load(self, load: Load, flat: Expr) -> Expr:
        array, buffer, row = (
            self.spec.arrays[load.array],
            self.buffers[load.array],
            self.rows[load.array],
        )
        if load.index is not None:
            row = self.buffers[load.index][self.rows[load.index]].astype("int64")
        if not array.by_row and load.index is None:
            return buffer[flat + load.column]
        return buffer[row, flat + load.column] if array.ld else buffer[row]

    def _compute(self, i: int, line: Line, args: Sequence[Expr], index: Index) -> Expr:
        if line.op == "dropout":
            unit = _times_stride(_flat(index, line.shape))
            bits = _mix(T.bind(self.keys[i] ^ unit)) >> _u32(32 - dropout.BITS)
            keep = tirx.FloatImm("float32", 1.0 / (1.0 - line["rate"]))
            return args[0] * tirx.Select(
                bits >= _u32(dropout.threshold(line["rate"])), keep, polynomials.f32(0.0)
            )
        if line.op == "one_hot":
            hit = args[0].astype("int64") == int64(0) + index[-1]
            return tirx.Select(hit, polynomials.f32(1.0), polynomials.f32(0.0))
        return ELEMENTWISE[line.op](*args)

    def _row_key(self, line: Line) -> Expr:
        """Dropout's key of this row: the vertex's key mixed with that of the site and step."""
        vertex, keys = line.args[1], line.args[2]
        assert isinstance(vertex, Load) and isinstance(keys, Load)
        mine = self.buffers[vertex.array][self.rows[vertex.array]]
        return _mix(T.bind(mine ^ self.buffers[keys.array][int64(line["site"])]))


def _u32(value: int) -> Expr:
    return tirx.IntImm("uint32", value)


def _times_stride(unit: Expr) -> Expr:
    """unit * UNIT_STRIDE modulo 2^32.

    TVM's simplifier knows no modulo: it folds constants and multiplies sums out. So constants are folded here, and
    the hash combines by exclusive or.
    """
    if isinstance(unit, tirx.IntImm):
        return _u32(unit.value * dropout.UNIT_STRIDE & 0xFFFFFFFF)
    return unit.astype("uint32") * _u32(dropout.UNIT_STRIDE)


def _mix(x: Expr) -> Expr:
    """dropout.mix on TIR."""
    for shift, factor in zip(dropout.SHIFTS, (*dropout.MULTIPLIERS, None), strict=True):
        x = T.bind(x ^ (x >> _u32(shift)))
        if factor is not None:
            x = T.bind(x * _u32(factor))
    return x


def _flat(index: Index, shape: Shape) -> Expr:
    """Row-major position of `index`."""
    flat: Expr = int64(0)
    for k, n in zip(index, shape, strict=True):
        flat = k if isinstance(flat, tirx.IntImm) and flat.value == 0 else flat * n + k
    return flat


def _broadcast(index: Index, shape: Shape) -> Index:
    """The index into an operand of `shape` that broadcasts to the line's shape."""
    own = index[len(index) - len(shape) :]
    return tuple(int64(0) if n == 1 else k for k, n in zip(own, shape, strict=True))


def _through(view: View, shape: Shape, index: Index) -> Index:
    """An index into a view as one into its source."""
    if view.op == "slice":
        return tuple(k + view.start if axis == view.axis else k for axis, k in enumerate(index))
    if view.op == "transpose":
        return index[::-1]
    flat, out = _flat(index, shape), []
    for n in reversed(view.shape):
        out.append(flat % n if len(view.shape) > 1 else flat)
        flat = flat // n
    return tuple(reversed(out))


def _reduce(row: _Row, i: int, line: Line) -> None:
    """Sum or maximum along the last axis, with one partial result per lane where the axis is long."""
    (source,), (shape,) = line.args, line.shapes
    start = polynomials.f32(0.0) if line.op == "sum" else tirx.min_value("float32")
    combine = (lambda a, b: a + b) if line.op == "sum" else tirx.max
    width, lanes, out = shape[-1], row.lanes, row.locals[i]

    def one(prefix: Index) -> None:
        at = _flat(prefix, shape[:-1])
        full = width // lanes if width >= 2 * lanes else 0
        T.buffer_store(out, start, [at])
        if full:
            partial = scratch([lanes], "local")
            with loop(lanes, "lane") as j:
                T.buffer_store(partial, row.at(source, shape, (*prefix, j)), [j])
            with loop(full - 1) as v, loop(lanes, "lane") as j:
                value = row.at(source, shape, (*prefix, (v + 1) * lanes + j))
                T.buffer_store(partial, combine(partial[j], value), [j])
            with loop(lanes) as j:
                T.buffer_store(out, combine(out[at], partial[j]), [at])
        with loop(width - full * lanes) as j:
            T.buffer_store(
                out, combine(out[at], row.at(source, shape, (*prefix, j + full * lanes))), [at]
            )

    row.over_serial(shape[:-1], one)


def _argmax(row: _Row, i: int, line: Line) -> None:
    (source,), (shape,) = line.args, line.shapes
    best, out = scratch([1], "local"), row.locals[i]
    T.buffer_store(best, row.at(source, shape, (int64(0),)), [int64(0)])
    T.buffer_store(out, tirx.IntImm("int32", 0), [int64(0)])
    with loop(shape[0] - 1) as j:
        value = T.bind(row.at(source, shape, (j + 1,)))
        more = T.bind(value > best[int64(0)])
        T.buffer_store(out, tirx.Select(more, (j + 1).astype("int32"), out[int64(0)]), [int64(0)])
        T.buffer_store(best, tirx.Select(more, value, best[int64(0)]), [int64(0)])


def _pick(row: _Row, i: int, line: Line) -> None:
    """x[index], or 0 where the index is absent."""
    shape = line.shapes[0]
    index = T.bind(row.at(line.args[1], (), ()).astype("int64"))
    value = row.at(line.args[0], shape, (T.bind(tirx.max(index, int64(0))),))
    T.buffer_store(row.locals[i], tirx.Select(index >= 0, value, polynomials.f32(0.0)), [int64(0)])


def _gather_sum(row: _Row, i: int, line: Line) -> None:
    """Sum over the edges of the row of what each parent wrote for it."""
    slots, pointers, edges = (a.array for a in line.args if isinstance(a, Load))
    (width,), out, arity = line.shape, row.locals[i], line["arity"]
    vectors(width, row.lanes, lambda j: T.buffer_store(out, polynomials.f32(0.0), [j]))
    first = T.bind(row.buffers[pointers][row.rows[pointers]].astype("int64"))
    last = T.bind(row.buffers[pointers][row.rows[pointers] + 1].astype("int64"))
    with loop(last - first) as e:
        slot = T.bind(row.buffers[edges][first + e].astype("int64"))
        parent, column = T.bind(slot // int64(arity)), T.bind(slot % int64(arity) * width)

        def add(j: Expr) -> None:
            T.buffer_store(out, out[j] + row.buffers[slots][parent, column + j], [j])

        vectors(width, row.lanes, add)


def _concat(row: _Row, i: int, line: Line) -> None:
    """Copy the parts into the row-local result."""
    axis, at = line["axis"], 0
    for a, shape in zip(line.args, line.shapes, strict=True):

        def put(index: Index, _: Expr, a: Operand = a, shape: Shape = shape, at: int = at) -> None:
            to = tuple(k + at if n == axis else k for n, k in enumerate(index))
            T.buffer_store(row.locals[i], row.at(a, shape, index), [_flat(to, line.shape)])

        row.over(shape, put)
        at += shape[axis]


OWN: dict[str, Callable[[_Row, int, Line], None]] = {
    "sum": _reduce,
    "max": _reduce,
    "argmax": _argmax,
    "pick": _pick,
    "gather_sum": _gather_sum,
    "concat": _concat,
}


def _chosen(condition: Expr) -> Expr:
    return tirx.Select(condition, polynomials.f32(1.0), polynomials.f32(0.0))


ELEMENTWISE: dict[str, Callable[..., Expr]] = {
    "copy": lambda x: x,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: polynomials.f32(0.0) - a,
    "sigmoid": polynomials.sigmoid,
    "tanh": polynomials.tanh,
    "relu": lambda a: tirx.max(a, polynomials.f32(0.0)),
    "exp": polynomials.exp,
    "log": tirx.log,
    "sqrt": tirx.sqrt,
    "abs": lambda a: tirx.Select(a < polynomials.f32(0.0), polynomials.f32(0.0) - a, a),
    "maximum": tirx.max,
    "minimum": tirx.min,
    "greater": lambda a, b: _chosen(a > b),
    "equal": lambda a, b: _chosen(a == b),
    "where": lambda c, a, b: tirx.Select(c != polynomials.f32(0.0), a, b),
}
