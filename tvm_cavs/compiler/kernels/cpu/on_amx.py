"""Products and weight gradients by blocks of AMX, from bfloat16 operands: see `amx.py`.

A block is written straight into the result where all of it is real and nothing is to be added;
otherwise into a square in the nearest cache, from where its real part goes on. So every row of a
product has the same bits whichever way it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import Outer, Product
from ...target_rules import panels
from ..loopnest import Buffer, Expr, either, hold, int64, loop, part, scratch, vectors
from . import amx
from .bfloat16 import WORD, constant, paired_rows, rounded_rows, span, words
from .operands import Bound, row_length
from .register_tile import (
    Target,
    by_height,
    by_panel,
    each_block,
    each_panel,
    room_for_sums,
    sum_blocks,
)
from .transpose import transposed

COLUMNS = 2 * amx.STEP  # values of the sum in one step


def product_blocks(
    spec: Product,
    bound: Bound,
    task: Expr,
    rows: tuple[Expr, Expr],
    weights: Buffer,
    to: Target,
) -> None:
    """A task's rows (first, count), packed a block at a time, times its panels of the weights."""
    cut = to.cut
    some = part(task % cut.parts[1], cut.parts[1], panels(spec.n_columns, cut))
    packed, fill = rounded_rows(spec.pieces, bound, cut.block, COLUMNS)
    edge = scratch([cut.heights[0], cut.columns])

    def block(first: Expr, n_rows: Expr) -> None:
        fill(first, n_rows)

        def panel(at: Target) -> None:
            right = weights, [at.panel, int64(0), int64(0)]

            def tile(height: int, row: Expr) -> None:
                left = packed, [row, int64(0)]
                make = partial(amx.block, height, left=left, right=right, n_words=words(spec.k))
                put_block(at, height, row, n_rows - row, edge, make)

            by_height(cut.heights, n_rows, tile)

        each_panel(some, replace(to, start=to.start + first, n_rows=n_rows), panel)

    amx.begin()
    each_block(cut, rows, block)
    amx.end()


Make = Callable[..., None]  # of a width, into `out`


def put_block(to: Target, height: int, row: Expr, n_rows: Expr, edge: Buffer, make: Make) -> None:
    """Rows `row` to `row + height` of a panel of C, as far as they are real: `n_rows` of them."""
    n_panels = panels(to.n_columns, to.cut)
    last = to.n_columns - (n_panels - 1) * to.cut.columns
    if to.cover:
        last = to.cut.columns

    def columns(width: int, adds: bool) -> None:
        whole = amx.padded(width)

        def directly() -> None:
            make(whole, out=(to.out, to.at(row, int64(0))))

        def by_edge() -> None:
            make(whole, out=(edge, [int64(0), int64(0)]))
            with loop(tirx.min(n_rows, int64(height))) as r:
                vectors(width, amx.SIDE, lambda j: put(r, j))

        def put(r: Expr, j: Expr) -> None:
            at = to.at(row + r, j)
            value = edge[r, j]
            T.buffer_store(to.out, to.out[tuple(at)] + value if adds else value, at)

        if adds or whole > width:
            by_edge()
        else:
            either(n_rows >= height, directly, by_edge)

    by_panel(
        to.panel, n_panels, to.cut.columns, last, lambda width: to.either(partial(columns, width))
    )


def outer_blocks(
    spec: Outer,
    bound: Bound,
    n: Expr,
    strips: tuple[Expr, Expr],
    some_panels: tuple[Expr, Expr],
    right: Buffer,
    pack_panel: Callable[[Expr, Expr], Callable[[Expr], None]],
    to: Target,
) -> None:
    """A task's strips and panels of C take the sums over all rows, a block at a time.

    Args:
        right: room for a panel of B in words, whole registers of them.
        pack_panel: given the first row of a block and how many it has, what fills `right` with a
            panel of it.
    """
    cut, (begin, some) = to.cut, some_panels
    most = room_for_sums(cut)
    pairs, fill = paired_rows(spec.left, bound, most)
    left = scratch([amx.padded(spec.k), row_length(words(most))], dtype=WORD)
    edge = scratch([cut.heights[0], cut.columns])

    def block(b: Expr, row: Expr, rows: Expr) -> None:
        n_words = hold(words(rows))
        fill(row, rows)
        clear(pairs, n_words)
        transpose(pairs, left, n_words)
        pack = pack_panel(row, rows)
        with loop(some) as p:
            panel = hold(begin + p)
            pack(panel)
            clear(right, n_words)
            later = replace(to, panel=panel, adds=tirx.any(to.adds, b > 0))
            strip_blocks(spec, strips, n_words, left, right, edge, later)

    amx.begin()
    sum_blocks(cut, n, block)
    amx.end()


def clear(to: Buffer, n_words: Expr) -> None:
    """Zeros behind `n_words` rows of words, up to what a whole step takes."""
    with loop((-n_words) % amx.STEP) as i:
        vectors(
            int(to.shape[1]),
            amx.SIDE,
            lambda j: T.buffer_store(to, constant(0, 1), [n_words + i, j]),
        )


def transpose(pairs: Buffer, left: Buffer, n_words: Expr) -> None:
    """left[k, p] = pairs[p, k], in squares."""
    squares = hold(tirx.ceildiv(n_words, amx.SIDE))
    with loop(int(left.shape[0]) // amx.SIDE) as k, loop(squares) as p:
        word, column = p * amx.SIDE, span(k * amx.SIDE, amx.SIDE)
        columns = transposed([pairs[word + r, column] for r in range(amx.SIDE)])
        for i, values in enumerate(columns):
            T.buffer_store(left, values, [k * amx.SIDE + i, span(word, amx.SIDE)])


def strip_blocks(
    spec: Outer,
    strips: tuple[Expr, Expr],
    n_words: Expr,
    left: Buffer,
    right: Buffer,
    edge: Buffer,
    to: Target,
) -> None:
    """Blocks of one panel of C, as many rows of it as a tile has, take the sum over some rows."""
    tall = to.cut.heights[0]
    full, rest = divmod(spec.k, tall)
    begin, count = strips

    def block(height: int, first: Expr, real: int) -> None:
        a, b = (left, [first, int64(0)]), (right, [int64(0), int64(0)])
        make = partial(amx.block, height, left=a, right=b, n_words=n_words)
        put_block(to, height, first, int64(real), edge, make)

    if full:
        with loop(tirx.min(count, int64(full) - begin)) as s:
            block(tall, T.bind((begin + s) * tall), tall)
    if rest:
        with T.If(begin + count > full), T.Then():
            block(amx.padded(rest), int64(full * tall), rest)
