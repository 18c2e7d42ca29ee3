"""Operands in bfloat16: rows packed as words, each a pair of neighbours in the reduction.

A product sums over columns, so its pairs lie side by side in a row. A weight gradient sums over
rows, so its pairs lie one below the other. What an odd count leaves over is paired with zero.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from .bfloat16 import HALF, WORD, rounded, span, strips, word
from .loopnest import Expr, loop, scratch
from .operands import LINE, Bound, Load, Piece, pick_rows, row_length, source_row

HALVES_OF_LINE = 2 * LINE


def column_packer(
    pieces: tuple[Piece, ...], bound: Bound, block: int
) -> Callable[[Expr, Expr], Load]:
    """`operands.packer` in words: `load(i, p)` holds columns 2p and 2p + 1 of row `first + i`."""
    k = sum(piece.width for piece in pieces)
    lines = -(-k // HALVES_OF_LINE) | 1  # odd, as in row_length
    rows = scratch([block, lines * HALVES_OF_LINE], dtype=HALF)

    def pack(first: Expr, count: Expr) -> Load:
        with loop(count) as i:
            picked = pick_rows(pieces, bound, first + i)
            offset = 0
            for piece in pieces:
                round_piece(piece, i, offset, source_row(piece, bound, picked, first + i))
                offset += piece.width
            if k % 2:
                T.buffer_store(rows, tirx.IntImm(HALF, 0), [i, k])
        return lambda i, p: T.reinterpret(WORD, rows[i, tirx.Ramp(p * 2, 1, 2)])

    def round_piece(piece: Piece, i: Expr, offset: int, row: Expr) -> None:
        source = bound.sources[piece.source]

        def put(j: Expr, lanes: int) -> None:
            value = rounded(source[row, span(j + piece.column, lanes)], lanes)
            T.buffer_store(rows, value, [i, span(j + offset, lanes)])

        strips(piece.width, put)

    return pack


def row_packer(pieces: tuple[Piece, ...], bound: Bound, block: int) -> Callable[[Expr, Expr], Load]:
    """`operands.packer` in words: `load(p, k)` holds rows 2p and 2p + 1 of the block, column k."""
    k = sum(piece.width for piece in pieces)
    pairs = scratch([block // 2, row_length(k)], dtype=WORD)

    def pack(first: Expr, count: Expr) -> Load:
        def put_rows(p: Expr, *rows: Expr) -> None:
            picked = [pick_rows(pieces, bound, first + i) for i in rows]
            offset = 0
            for piece in pieces:
                at = [
                    source_row(piece, bound, some, first + i)
                    for some, i in zip(picked, rows, strict=True)
                ]
                join_piece(piece, p, offset, at)
                offset += piece.width

        by_pair(count, put_rows)
        return lambda p, k: pairs[p, k]

    def join_piece(piece: Piece, p: Expr, offset: int, rows: list[Expr]) -> None:
        source = bound.sources[piece.source]

        def put(j: Expr, lanes: int) -> None:
            values = [source[row, span(j + piece.column, lanes)] for row in rows]
            T.buffer_store(pairs, word(*values, lanes=lanes), [p, span(j + offset, lanes)])

        strips(piece.width, put)

    return pack


def by_pair(count: Expr, emit: Callable[..., None]) -> None:
    """`emit(p, 2p, 2p + 1)` over range(count), at last `emit(p, 2p)` if the count is odd."""
    with loop(count // 2) as p:
        emit(p, p * 2, p * 2 + 1)
    with T.If(count % 2 == 1), T.Then():
        emit(count // 2, count - 1)
