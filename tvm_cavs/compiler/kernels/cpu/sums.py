"""Sums of rows: bias gradients, and row-sparse gradients of embeddings."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import ColumnSum, Piece, SegmentSum, operands
from ..loopnest import Buffer, Expr, arrays, int64, kernel, loop, scalars, vectors, zero
from .operands import Bound, bind, pick_rows, source_row


def column_sum(spec: ColumnSum, lanes: int, name: str) -> tirx.PrimFunc:
    """f(n, starts..., index starts..., sources..., indices..., c), see `operands`.

    Eight rows at a time are added to the sums, which stay in cache.
    """

    def emit() -> None:
        (n,), bound, (out,) = bind(["n"], operands(spec.pieces), [("c", (None,), "float32")])
        done = int64(0)
        for height in (8, 1):
            groups = T.bind((n - done) // height)
            with loop(groups) as g:
                add_rows(spec, bound, out, [done + g * height + r for r in range(height)], lanes)
            done = T.bind(done + groups * height)

    return kernel(name, "column_sum", emit)


def add_rows(spec: ColumnSum, bound: Bound, out: Buffer, rows: list[Expr], lanes: int) -> None:
    """c[column + j] += the sum over `rows` of column j of the pieces side by side."""
    picked = [pick_rows(spec.pieces, bound, row) for row in rows]
    offset = spec.column
    for piece in spec.pieces:
        source = bound.sources[piece.source]
        at = [
            T.bind(source_row(piece, bound, slots, row))
            for slots, row in zip(picked, rows, strict=True)
        ]
        add_piece(piece, offset, out, [partial(element, source, row) for row in at], lanes)
        offset += piece.width


def element(source: Buffer, row: Expr, column: Expr) -> Expr:
    """source[row, column]."""
    return source[row, column]


def add_piece(
    piece: Piece, offset: int, out: Buffer, rows: list[Callable[[Expr], Expr]], lanes: int
) -> None:
    """out[offset + j] += the sum of column j of the piece over rows."""

    def add(j: Expr) -> None:
        values = [row(j + piece.column) for row in rows]
        T.buffer_store(out, out[j + offset] + reduce(operator.add, values), [j + offset])

    vectors(piece.width, lanes, add)


def segment_sum(spec: SegmentSum, lanes: int, name: str, tasks: int = 1) -> tirx.PrimFunc:
    """f(n, source, edge, ptr, out); rows of out from n on are not written."""

    def emit() -> None:
        (n,) = scalars(["n"])
        source, edge, ptr, out = arrays(
            [
                ("source", (None, spec.ld), "float32"),
                ("edge", (None,), "int32"),
                ("ptr", (None,), "int32"),
                ("out", (None, spec.ldo or spec.width), "float32"),
            ]
        )
        with loop(tasks, "task") as task:
            first = T.bind(task * n // tasks)
            count = T.bind((task + 1) * n // tasks - first)
            with loop(count) as i:
                sum_segment(spec, lanes, T.bind(first + i), source, edge, ptr, out)

    return kernel(name, "segment_sum", emit)


def sum_segment(
    spec: SegmentSum, lanes: int, u: Expr, source: Buffer, edge: Buffer, ptr: Buffer, out: Buffer
) -> None:
    """One row of the result: zeros, then each row of its segment; it stays in the nearest cache."""
    vectors(spec.width, lanes, lambda j: T.buffer_store(out, zero(), [u, j]))
    begin = T.bind(ptr[u].astype("int64"))
    end = T.bind(ptr[u + 1].astype("int64"))
    with loop(end - begin) as e:
        row = T.bind(edge[begin + e].astype("int64"))
        vectors(
            spec.width,
            lanes,
            lambda j: T.buffer_store(out, out[u, j] + source[row, j + spec.column], [u, j]),
        )
