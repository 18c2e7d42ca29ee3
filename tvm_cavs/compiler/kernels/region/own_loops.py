"""The lines of a region that need a loop of their own; each leaves a row-local result.

Signature of a row of the table `OWN`: (row, number of the line, line).
"""

from __future__ import annotations

import operator
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.region import Line, Load, Operand, Shape
from ..loopnest import Expr, int64, loop, scratch, vectors, zero
from .asking import ask_for_slots
from .elementwise import is_number, maximum
from .row import Index, Row, flat

Combine = Callable[[Expr, Expr], Expr]


def reduce(row: Row, i: int, line: Line) -> None:
    """Sum or maximum along the last axis; where it is long, with one partial result per lane."""
    (source,), (shape,) = line.args, line.shapes
    start = zero() if line.op == "sum" else tirx.FloatImm("float32", float("-inf"))
    combine: Combine = operator.add if line.op == "sum" else maximum
    width, lanes, out = shape[-1], row.lanes, row.locals[i]

    def one(prefix: Index) -> None:
        at = flat(prefix, shape[:-1])
        full = width // lanes if width >= 2 * lanes else 0
        out.put(at, start)
        if full:
            partial = scratch([lanes], "local")
            with loop(lanes, "lane") as j:
                T.buffer_store(partial, row.at(source, shape, (*prefix, j)), [j])
            with loop(full - 1) as v, loop(lanes, "lane") as j:
                value = row.at(source, shape, (*prefix, (v + 1) * lanes + j))
                T.buffer_store(partial, combine(partial[j], value), [j])
            with loop(lanes) as j:
                out.put(at, combine(out[at], partial[j]))
        with loop(width - full * lanes) as j:
            value = row.at(source, shape, (*prefix, j + full * lanes))
            out.put(at, combine(out[at], value))

    row.over_serial(shape[:-1], one)


def argmax(row: Row, i: int, line: Line) -> None:
    """The first position of the largest element of a vector, or of the first NaN."""
    (width,) = line.shapes[0]
    (argmax_by_lanes if width >= 2 * row.lanes else argmax_in_order)(row, i, line)


def argmax_by_lanes(row: Row, i: int, line: Line) -> None:
    """The largest element, then the first position where it is: both with a result per lane."""
    (source,), (shape,), lanes = line.args, line.shapes, row.lanes
    full, best = shape[0] // lanes, scratch([lanes], "local")
    place = scratch([lanes], "local", "int32")
    top, out = scratch([1], "local"), row.locals[i]
    nowhere = tirx.const(shape[0], "int32")

    def value(j: Expr) -> Expr:
        return row.at(source, shape, (j,))

    def raise_top(x: Expr) -> None:
        T.buffer_store(top, maximum(top[int64(0)], x), [int64(0)])

    def where(j: Expr) -> Expr:
        x, here = value(j), j.astype("int32")
        largest_here = tirx.Select(x >= top[int64(0)], here, nowhere)
        nan_here = tirx.Select(is_number(x), nowhere, here)
        return tirx.Select(is_number(top[int64(0)]), largest_here, nan_here)

    with loop(lanes, "lane") as j:
        T.buffer_store(best, value(j), [j])
    with loop(full - 1) as v, loop(lanes, "lane") as j:
        T.buffer_store(best, maximum(best[j], value((v + 1) * lanes + j)), [j])
    T.buffer_store(top, best[int64(0)], [int64(0)])
    with loop(lanes) as j:
        raise_top(best[j])
    with loop(shape[0] - full * lanes) as j:
        raise_top(value(j + full * lanes))
    with loop(lanes, "lane") as j:
        T.buffer_store(place, nowhere, [j])
    with loop(full) as v, loop(lanes, "lane") as j:
        T.buffer_store(place, tirx.min(place[j], where(v * lanes + j)), [j])
    out.put(int64(0), nowhere)
    with loop(lanes) as j:
        out.put(int64(0), tirx.min(out[int64(0)], place[j]))
    with loop(shape[0] - full * lanes) as j:
        out.put(int64(0), tirx.min(out[int64(0)], where(j + full * lanes)))


def argmax_in_order(row: Row, i: int, line: Line) -> None:
    """One element after the other."""
    (source,), (shape,) = line.args, line.shapes
    best, out = scratch([1], "local"), row.locals[i]
    T.buffer_store(best, row.at(source, shape, (int64(0),)), [int64(0)])
    out.put(int64(0), tirx.IntImm("int32", 0))
    with loop(shape[0] - 1) as j:
        value = T.bind(row.at(source, shape, (j + 1,)))
        known = best[int64(0)]
        larger = tirx.Select(is_number(value), value > known, tirx.const(True))
        more = T.bind(tirx.all(is_number(known), larger))
        out.put(int64(0), tirx.Select(more, (j + 1).astype("int32"), out[int64(0)]))
        T.buffer_store(best, tirx.Select(more, value, best[int64(0)]), [int64(0)])


def pick(row: Row, i: int, line: Line) -> None:
    """x[index], or 0 where the index is absent."""
    shape = line.shapes[0]
    index = T.bind(row.at(line.args[1], (), ()).astype("int64"))
    value = row.at(line.args[0], shape, (T.bind(tirx.max(index, int64(0))),))
    row.locals[i].put(int64(0), tirx.Select(index >= 0, value, zero()))


def gather_sum(row: Row, i: int, line: Line) -> None:
    """Sum over the edges of the row of what each parent wrote for it.

    Operands: slots float32[parents, arity * width], pointers int32[rows + 1], edges int32[n_edges],
    each edge a parent's row * arity + slot.
    """
    slots, pointers, edges = (a.array for a in line.args if isinstance(a, Load))
    (width,), out, arity = line.shape, row.locals[i], line["arity"]
    vectors(width, row.lanes, lambda j: out.put(j, zero()))
    first = T.bind(row.buffers[pointers][row.rows[pointers]].astype("int64"))
    last = T.bind(row.buffers[pointers][row.rows[pointers] + 1].astype("int64"))
    ask_for_slots(row, line)
    with loop(last - first) as e:
        slot = T.bind(row.buffers[edges][first + e].astype("int64"))
        parent, column = T.bind(slot // int64(arity)), T.bind(slot % int64(arity) * width)

        def add(j: Expr) -> None:
            out.put(j, out[j] + row.buffers[slots][parent, column + j])

        vectors(width, row.lanes, add)


def concat(row: Row, i: int, line: Line) -> None:
    """The operands one after the other along an axis."""
    axis, at = line["axis"], 0
    for a, shape in zip(line.args, line.shapes, strict=True):

        def put(index: Index, _: Expr, a: Operand = a, shape: Shape = shape, at: int = at) -> None:
            to = tuple(k + at if n == axis else k for n, k in enumerate(index))
            row.locals[i].put(flat(to, line.shape), row.at(a, shape, index))

        row.over(shape, put)
        at += shape[axis]


OWN: dict[str, Callable[[Row, int, Line], None]] = {
    "sum": reduce,
    "max": reduce,
    "argmax": argmax,
    "pick": pick,
    "gather_sum": gather_sum,
    "concat": concat,
}
