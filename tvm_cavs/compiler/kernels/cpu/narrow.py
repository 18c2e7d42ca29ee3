"""Products with few columns: dot products of rows, read where they lie, with the columns of W.

The lanes run along K, since a panel of so few columns would leave most of them idle. A register
tile is a few rows by all columns, each element a vector of partial sums, whose lanes are added up
at the end. Rows are not packed: what a piece has of a row is contiguous.

In a weight gradient of few columns the lanes run along the rows of C, which lie side by side in a
row of the left operand; each is multiplied with one element of the right one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import Piece
from ..loopnest import LINE, Buffer, Expr, hold, int64, loop, prefetch_read, scratch, tile, zero
from .bfloat16 import span
from .operands import Bound, Load, pick_rows, source_row
from .register_tile import Target, accumulate, by_panel
from .transpose import transposed


def dot_tiles(
    pieces: tuple[Piece, ...], bound: Bound, rows: tuple[Expr, Expr], weights: Buffer, to: Target
) -> None:
    """Rows (first, count): as many tiles of each height as fit, tallest first.

    `weights` is W transposed, float32[1, n_columns, K or more]. No other row is read or written.
    """
    done, rest = rows
    for height in to.cut.heights:
        n_tiles = hold(rest // height) if height > 1 else rest
        with loop(n_tiles) as t:
            dot_tile(pieces, bound, height, T.bind(done + t * height), weights, to)
        if height > 1:
            done = hold(done + n_tiles * height)
            rest = hold(rest - n_tiles * height)


def dot_tile(
    pieces: tuple[Piece, ...], bound: Bound, height: int, row: Expr, weights: Buffer, to: Target
) -> None:
    """`height` rows from `row` on."""
    lanes = to.cut.lanes
    sums = scratch([height, to.n_columns, lanes], "local")
    with loop(height, "row") as r, loop(to.n_columns, "vector") as j:
        T.buffer_store(sums, tirx.Broadcast(zero(), lanes), [r, j, span(0, lanes)])
    offset = 0
    for piece in pieces:
        add_piece(piece, offset, bound, row, weights, sums)
        offset += piece.width
    with loop(height, "row") as r, loop(to.n_columns, "vector") as j:
        total, at = add_lanes(sums, lanes, r, j), to.at(row + r, j)
        T.buffer_store(to.out, to.out[tuple(at)] + total if to.adds else total, at)


def add_piece(
    piece: Piece, offset: int, bound: Bound, row: Expr, weights: Buffer, sums: Buffer
) -> None:
    """The products of a piece's columns, a vector of them at a time.

    The short vector of what is left over comes first: there is nothing yet to keep in other lanes.
    """
    height, n_columns, lanes = (int(extent) for extent in sums.shape)
    source, picked = bound.sources[piece.source], scratch([height], "local", "int64")
    with loop(height, "row") as r:
        i = row + r
        T.buffer_store(picked, source_row(piece, bound, pick_rows((piece,), bound, i), i), [r])

    def step(begin: Expr, n: int) -> None:
        left, right = span(begin + piece.column, n), span(begin + offset, n)
        with loop(n_columns, "vector") as j, loop(height, "row") as r:
            at = [r, j, span(0, n)]
            term = source[picked[r], left] * weights[0, j, right]
            T.buffer_store(sums, sums[tuple(at)] + term, at)

    full, rest = divmod(piece.width, lanes)
    if rest:
        step(full * lanes, rest)
    if full:
        with loop(full) as v:
            step(v * lanes, lanes)


def add_lanes(sums: Buffer, lanes: int, r: Expr, j: Expr) -> Expr:
    """The sum of the lanes of an element: half of them are added to the other half, and again."""
    width = lanes // 2
    while width:
        at = [r, j, span(0, width)]
        T.buffer_store(sums, sums[tuple(at)] + sums[r, j, span(width, width)], at)
        width //= 2
    return sums[r, j, 0]


def column_tiles(
    k_size: int, part: tuple[Expr, Expr], rows: Expr, left: Load, right: Load, to: Target
) -> None:
    """Panels `part` (first, count) of the `k_size` rows of C take the sum over a block of rows.

    Its columns are shared out evenly among tiles of at most `group`.
    """
    whole = to.cut.columns
    n_panels = -(-k_size // whole)
    n, (begin, count) = to.n_columns, part
    n_tiles = -(-n // to.cut.group)
    edges = [n * i // n_tiles for i in range(n_tiles + 1)]
    with loop(count) as p:
        panel = T.bind(begin + p)

        def some(height: int) -> None:
            for columns in zip(edges, edges[1:], strict=False):
                column_tile(height, panel * whole, columns, rows, left, right, to)

        by_panel(panel, n_panels, whole, k_size - (n_panels - 1) * whole, some)


def column_tile(
    height: int,
    first: Expr,
    columns: tuple[int, int],
    rows: Expr,
    left: Load,
    right: Load,
    to: Target,
) -> None:
    """Rows `first` to `first + height` of C += or = the sum over a block of rows.

    columns: of C, the first and where they end. What many have of whole vectors is transposed in
    registers, the rest written one by one.
    """
    begin, lanes = columns[0], to.cut.lanes
    n = columns[1] - begin

    def ask(i: Expr) -> None:
        for k in range(0, height, LINE):
            prefetch_read(left(i, first + (height + k)), far=True)

    acc = accumulate(
        n,
        height,
        lanes,
        rows,
        lambda i: lambda j, k: right(i, begin + j) * left(i, first + k),
        before=ask if begin == 0 else None,
    )
    later = replace(to, column=to.column + begin)
    whole = height // lanes * lanes if n > lanes // 2 else 0
    if whole:
        to.either(partial(store_transposed, acc, whole, first, later))
    if whole < height:
        store_one_by_one(acc, whole, first, later)


def store_transposed(acc: Buffer, height: int, first: Expr, to: Target, adds: bool) -> None:
    """C[first + k, j] += or = acc[j, k] for k < height, a multiple of the lanes."""
    n, lanes = int(acc.shape[0]), to.cut.lanes
    nothing = tirx.Broadcast(zero(), lanes)
    for top, begin in product(range(0, height, lanes), range(0, n, lanes)):
        square = [
            acc[j, span(top, lanes)] if j < n else nothing for j in range(begin, begin + lanes)
        ]
        width = min(lanes, n - begin)
        for k, column in enumerate(transposed(square)):
            row, j = to.at(first + (top + k), begin)
            at = [row, span(j, width)]
            sums = column if width == lanes else picked(column, width)
            T.buffer_store(to.out, to.out[tuple(at)] + sums if adds else sums, at)


def picked(vector: Expr, n: int) -> Expr:
    """The first n elements."""
    return tirx.Shuffle([vector], [tirx.IntImm("int32", i) for i in range(n)])


def store_one_by_one(acc: Buffer, begin: int, first: Expr, to: Target) -> None:
    """C[first + k, j] += or = acc[j, k] for k from `begin` on.

    From memory: an element each out of its register, LLVM would spill most of the sums while they
    are summed up.
    """
    n, height = (int(extent) for extent in acc.shape)
    count = height - begin
    sums = scratch([n, count])
    tile(
        n, count, to.cut.lanes, lambda j, k: T.buffer_store(sums, acc[j, int64(begin) + k], [j, k])
    )

    def write(adds: bool) -> None:
        with loop(count) as k, loop(n) as j:
            at = to.at(first + begin + k, j)
            T.buffer_store(to.out, to.out[tuple(at)] + sums[j, k] if adds else sums[j, k], at)

    to.either(write)
