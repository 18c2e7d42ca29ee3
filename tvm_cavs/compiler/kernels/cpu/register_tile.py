"""The register tile: a rectangle of a result that is summed up in vector registers, then written.

A result is cut into panels of NR columns; a tile is a few rows of one panel. Its buffer is in scope
"local", all its loops are to be unrolled and vectorised, so LLVM keeps every element in a register.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ....errors import ShapeError
from ...target_rules import Tile, panels
from ..loopnest import (
    LINE,
    Buffer,
    Expr,
    either,
    hold,
    int64,
    loop,
    prefetch,
    scratch,
    tile,
    turned,
    zero,
)
from .bfloat16 import LANES, dot, span

TURN = 4  # steps
SPARE = 4  # a block of sums has at most one part in so many more rows than it should
Term = Callable[[Expr, Expr], Expr]
Word = Callable[[Expr, Expr], Expr]


def accumulate(
    height: int,
    width: int,
    lanes: int,
    n_steps: Expr,
    step: Callable[[Expr], Term],
    before: Callable[[Expr], None] | None = None,
    each_turn: Callable[[Expr], None] | None = None,
) -> Buffer:
    """A register tile holding the sum of step(k)(r, j) over k < n_steps; `before(k)` runs first.

    With `each_turn` four steps are a turn, and `each_turn(t)` runs before turn t.
    """
    acc = no_sums(height, width, lanes)

    def one(k: Expr) -> None:
        if before is not None:
            before(k)
        add_step(acc, lanes, step(k))

    if each_turn is None:
        with loop(n_steps) as k:
            one(k)
        return acc
    with loop(n_steps // TURN) as t:
        each_turn(t)
        for u in range(TURN):
            one(t * TURN + u)
    with loop(n_steps % TURN) as u:
        one(n_steps // TURN * TURN + u)
    return acc


def no_sums(height: int, width: int, lanes: int) -> Buffer:
    """A register tile of zeros."""
    acc = scratch([height, width], "local")
    tile(height, width, lanes, lambda r, j: T.buffer_store(acc, zero(), [r, j]))
    return acc


def add_step(acc: Buffer, lanes: int, term: Term) -> None:
    """A register tile takes term(r, j) in every element."""
    height, width = (int(n) for n in acc.shape)
    tile(height, width, lanes, lambda r, j: T.buffer_store(acc, acc[r, j] + term(r, j), [r, j]))


def accumulate_words(
    height: int,
    width: int,
    n_words: Expr,
    left: Word,
    right: Word,
    before: Callable[[Expr], None] | None = None,
) -> Buffer:
    """A register tile holding the sum of products of both halves of words, over p < n_words.

    `left(p, r)` is one word of row r; `right(p, j)` the words of the columns with index j.
    `before(p)` runs first.
    """
    acc = scratch([height, width], "local")
    tile(height, width, LANES, lambda r, j: T.buffer_store(acc, zero(), [r, j]))
    with loop(n_words) as p:
        if before is not None:
            before(p)
        with loop(height, "row") as r, loop(width // LANES, "vector") as v:
            at = [r, span(v * LANES, LANES)]
            row = tirx.Broadcast(left(p, r), LANES)
            T.buffer_store(acc, dot(acc[tuple(at)], row, right(p, at[1])), at)
    return acc


@dataclass(frozen=True)
class Target:
    """Where the tiles of a panel go: rows `start + row` of C for row < n_rows, from `column` on."""

    out: Buffer
    cut: Tile
    n_columns: int  # of the whole result
    column: int
    cover: bool  # the whole last panel may be written
    adds: bool | Expr  # to what is in C; an expression is found out as the kernel runs
    panel: Expr
    start: Expr
    n_rows: Expr | None  # None: every row of every tile is real
    turn: Expr = 0  # odd: panels are taken from last to first

    def at(self, r: Expr, j: Expr) -> list[Expr]:
        """Indices in C of row r, column j of the panel."""
        return [self.start + r, self.panel * self.cut.columns + j + self.column]

    def either(self, write: Callable[[bool], None]) -> None:
        """`write(whether to add)`, both ways where that is not known yet."""
        if isinstance(self.adds, bool):
            write(self.adds)
        else:
            either(self.adds, lambda: write(True), lambda: write(False))


def prefetch_tile(to: Target, height: int, row: Expr) -> None:
    """Asks for the part of C that a tile will be written to, before the tile is computed."""
    with loop(height, "row") as r, loop(-(-to.cut.columns // LINE), "vector") as v:
        prefetch(to.out[tuple(to.at(row + r, v * LINE))])


def store_tile(to: Target, height: int, row: Expr, acc: Buffer) -> None:
    """Writes a tile to C: real rows only, on the last panel real columns only."""
    n_panels = panels(to.n_columns, to.cut)
    last = to.n_columns - (n_panels - 1) * to.cut.columns
    if to.cover:
        last = to.cut.columns

    guarded = height > 1 and to.n_rows is not None

    def columns(width: int, adds: bool) -> None:
        def put(r: Expr, j: Expr) -> None:
            at = to.at(row + r, j)
            T.buffer_store(to.out, to.out[tuple(at)] + acc[r, j] if adds else acc[r, j], at)

        tile(height, width, to.cut.lanes, put, (lambda r: row + r < to.n_rows) if guarded else None)

    by_panel(
        to.panel, n_panels, to.cut.columns, last, lambda width: to.either(partial(columns, width))
    )


def by_panel(
    panel: Expr, n_panels: int, whole: int, last: int, emit: Callable[[int], None]
) -> None:
    """`emit(columns)` for one panel: all of its columns, or on the last one those there are."""
    if n_panels == 1 or last == whole:
        emit(last)
    else:
        either(panel < n_panels - 1, lambda: emit(whole), lambda: emit(last))


def by_height(heights: tuple[int, ...], rows: Expr, emit: Callable[[int, Expr], None]) -> None:
    """`emit(height, first row)`: as few tiles as can be, taller ones before lower ones.

    Where two neighbouring heights are there and suffice, tiles have about one height: 25 rows are
    five times 5, not four times 6 and once 1, which costs half as much as 6. Else as many of each
    height as fit: rows left over that the next height could not take at once make this height's
    last tile, which then computes rows that nobody stores.
    """
    done, rest = int64(0), rows
    for height, lower in zip(heights, (*heights[1:], 0), strict=True):
        n_tiles = hold((rest + (height - 1 - lower)) // height) if height > 1 else rest
        if height == heights[0] and lower == height - 1 > 0:
            least = tirx.ceildiv(rest, int64(height))
            lower_ones = hold(least * height - rest)  # if that many tiles are there, and no others
            n_tiles = hold(tirx.Select(lower_ones <= least, least - lower_ones, n_tiles))
        with loop(n_tiles) as t:
            emit(height, T.bind(done + t * height))
        if height > 1:
            done = hold(done + n_tiles * height)
            rest = hold(tirx.max(rest - n_tiles * height, int64(0)))


def spare_rows(heights: tuple[int, ...]) -> int:
    """The most rows that `by_height` has a tile compute beyond those that there are."""
    return max(h - lower - 1 for h, lower in zip(heights, (*heights[1:], 0), strict=True))


def block_rows(cut: Tile, count: Expr) -> Expr:
    """Rows of a block, of which the last may have fewer; every block reads all weights.

    Even ones are as many as full ones would be: 256 rows are 132 + 124 and not 252 + 4.
    """
    if not cut.even:
        return int64(cut.block)
    tall = cut.heights[0]
    n_blocks = hold(tirx.max(tirx.ceildiv(count, cut.block), int64(1)))
    tiles = tirx.ceildiv(tirx.ceildiv(count, n_blocks), tall)
    return hold(tirx.max(tiles, int64(1)) * tall)


def each_block(cut: Tile, rows: tuple[Expr, Expr], emit: Callable[[Expr, Expr], None]) -> None:
    """`emit(first, count)` for a task's rows (first, count), a block of them at a time."""
    first, count = rows
    each = block_rows(cut, count)
    with loop(tirx.ceildiv(count, each)) as b:
        row = hold(first + b * each)
        emit(row, hold(tirx.min(each, first + count - row)))


def room_for_sums(cut: Tile) -> int:
    """The most rows that `sum_blocks` has summed up at once."""
    multiple = _multiple(cut)
    return -(-cut.block * (SPARE + 1) // (SPARE * multiple)) * multiple


def sum_blocks(cut: Tile, n: Expr, emit: Callable[[Expr, Expr, Expr], None]) -> None:
    """`emit(number, first, count)`: n rows in blocks of about one size, a quarter more at most.

    All sums are read anew for each of them, so a few rows are no block of their own.
    """
    multiple = _multiple(cut)
    wanted = tirx.ceildiv(n * SPARE - cut.block, int64(SPARE * cut.block))
    each = tirx.ceildiv(n, tirx.max(wanted, int64(1)))
    each = hold(tirx.max(tirx.ceildiv(each, int64(multiple)), int64(1)) * multiple)
    with loop(tirx.ceildiv(n, each)) as b:
        row = hold(b * each)
        emit(b, row, hold(tirx.min(each, n - row)))


def _multiple(cut: Tile) -> int:
    """Of what a block has a multiple of rows: a step of AMX, or a turn of `accumulate`."""
    return 2 * LANES if cut.amx else TURN


def each_panel(some: tuple[Expr, Expr], to: Target, emit: Callable[[Target], None]) -> None:
    """`emit` for each of a task's panels (first, count), in the order of this turn."""
    begin, count = some
    with loop(count) as p:
        emit(replace(to, panel=hold(begin + turned(p, count, to.turn))))


def check_columns(column: int, width: int, ldc: int) -> None:
    """Refuses columns that do not lie in C."""
    if column < 0 or column + width > ldc:
        raise ShapeError(
            f"columns {column}:{column + width} do not lie in a result of {ldc} columns; "
            "a wider result, or cover=False, is needed"
        )
