"""Left operands of products as frozen data: concatenations of pieces of row-major buffers.

A piece is a range of columns of one source buffer, its rows taken in order or through an index
vector. Several pieces may share a source or an index; each is then one parameter of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import Operands, Piece, operands
from ..loopnest import (
    LINE,
    Buffer,
    Expr,
    arrays,
    hold,
    int64,
    loop,
    scalars,
    scratch,
    vectors,
    zero,
)


@dataclass(frozen=True)
class Bound:
    """The parameters of `operands`, inside a kernel, by slot number."""

    starts: dict[int, Expr]
    index_starts: dict[int, Expr]
    sources: dict[int, Buffer]
    indices: dict[int, Buffer]


Shapes = list[tuple[str, tuple[int | None, ...], str]]


def bind(first: list[str], needs: Operands, last: Shapes) -> tuple[list[Expr], Bound, list[Buffer]]:
    """Declares `first` scalars, the parameters of `needs`, then the `last` arrays."""
    names = [f"start{slot}" for slot in needs.starts] + [f"istart{slot}" for slot in needs.indices]
    values = scalars(first + names)
    offsets = values[len(first) :]
    shapes: Shapes = [(f"source{slot}", (None, ld), "float32") for slot, ld in needs.sources]
    shapes += [(f"index{slot}", (None,), "int32") for slot in needs.indices]
    buffers = arrays(shapes + last)
    n_starts, n_sources, n_inputs = len(needs.starts), len(needs.sources), len(shapes)
    bound = Bound(
        starts=dict(zip(needs.starts, offsets[:n_starts], strict=True)),
        index_starts=dict(zip(needs.indices, offsets[n_starts:], strict=True)),
        sources={slot: buffers[i] for i, (slot, _) in enumerate(needs.sources)},
        indices=dict(zip(needs.indices, buffers[n_sources:n_inputs], strict=True)),
    )
    return values[: len(first)], bound, buffers[n_inputs:]


Load = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Stretch:
    """Neighbouring columns of an operand, which the sums of a tile take in a loop of their own.

    load(r, k): column `first + k`, for k < width, of row r of the tile.
    """

    first: Expr
    width: Expr
    load: Load


TileRows = Callable[[int, Expr], list[Stretch]]  # of a tile: its height, its first row in the block
MOST_STRETCHES, LEAST_WIDTH = 4, 16  # of an operand that is read in place


def packer(
    pieces: tuple[Piece, ...], bound: Bound, block: int, lanes: int, spare: int = 0
) -> Callable[[Expr, Expr], Load]:
    """`pack(first, count) -> load`: after it, `load(i, k)` is row `first + i` of the operand.

    Rows are copied side by side into a scratch block of `block` rows that stays in cache; `spare`
    rows from `count` on are zeros. (What an earlier kernel left there may be subnormal numbers, and
    multiplying each takes a hundred cycles. Transposing rows as well was measured: it gains
    nothing.)
    """
    width = sum(piece.width for piece in pieces)
    rows = scratch([block + spare, row_length(width)])

    def pack(first: Expr, count: Expr) -> Load:
        with loop(count) as i:
            picked = pick_rows(pieces, bound, first + i)
            offset = 0
            for piece in pieces:
                copy_piece(piece, i, offset, source_row(piece, bound, picked, first + i))
                offset += piece.width
        with loop(spare) as i:
            vectors(width, lanes, lambda j: T.buffer_store(rows, zero(), [count + i, j]))
        return lambda i, k: rows[i, k]

    def copy_piece(piece: Piece, i: Expr, offset: int, row: Expr) -> None:
        source = bound.sources[piece.source]

        def put(j: Expr) -> None:
            T.buffer_store(rows, source[row, j + piece.column], [i, j + offset])

        vectors(piece.width, lanes, put)

    return pack


def window_packer(
    pieces: tuple[Piece, ...], bound: Bound, block: int, depth: int, lanes: int, spare: int
) -> Callable[[Expr, Expr, Expr, Expr], Load]:
    """`pack(first, count, begin, n)`: as `packer`, columns begin, ..., begin + n - 1 <= depth."""
    rows = scratch([block + spare, row_length(depth)])

    def pack(first: Expr, count: Expr, begin: Expr, n: Expr) -> Load:
        with loop(count) as i:
            picked = pick_rows(pieces, bound, first + i)
            offset = 0
            for piece in pieces:
                low = hold(tirx.max(begin, int64(offset)))
                high = tirx.min(begin + n, int64(offset + piece.width))
                row = source_row(piece, bound, picked, first + i)
                copy_some(piece, i, (low - begin, low - offset), hold(high - low), row)
                offset += piece.width
        with loop(spare) as i:
            vectors(depth, lanes, lambda j: T.buffer_store(rows, zero(), [count + i, j]))
        return lambda i, k: rows[i, k]

    def copy_some(piece: Piece, i: Expr, at: tuple[Expr, Expr], n: Expr, row: Expr) -> None:
        source, (to, begin) = bound.sources[piece.source], at

        def put(j: Expr) -> None:
            T.buffer_store(rows, source[row, begin + piece.column + j], [i, to + j])

        n = hold(tirx.max(n, int64(0)))
        full = hold(n // lanes)
        with loop(full) as v, loop(lanes, "lane") as lane:
            put(v * lanes + lane)
        with loop(n - full * lanes) as j:
            put(full * lanes + j)

    return pack


def row_length(width: int) -> int:
    """Elements from one packed row to the next: an odd number of cache lines.

    A power of two would put the same column of all rows into a few sets of the cache.
    """
    return (-(-width // LINE) | 1) * LINE


def reader(pieces: tuple[Piece, ...], bound: Bound) -> Callable[[Expr, Expr], Load] | None:
    """`packer` without packing, for one piece in row order: its rows are read where they are."""
    if len(pieces) > 1 or pieces[0].index is not None:
        return None
    (piece,) = pieces
    source = bound.sources[piece.source]

    def read(first: Expr, _count: Expr) -> Load:
        row = T.bind(bound.starts[piece.source] + first)
        return lambda i, k: source[row + i, k + piece.column]

    return read


def copied_rows(load: Load, depth: Expr) -> TileRows:
    """Rows of a block that a packer has copied, `depth` columns of them."""
    return lambda height, row: [Stretch(int64(0), depth, lambda r, k: load(row + r, k))]


def rows_in_place(pieces: tuple[Piece, ...], bound: Bound, first: Expr, count: Expr) -> TileRows:
    """Rows `first` to `first + count` where they lie. A tile that wants more gets the last again.

    Nothing is copied: a row is found once for each tile, by its index if it has one.
    """

    def found(height: int, row: Expr) -> list[Stretch]:
        offset, made = 0, []
        for piece in pieces:
            at = scratch([height], "local", "int64")
            with loop(height, "row") as r:
                i = first + (row if height == 1 else tirx.min(row + r, count - 1))
                picked = pick_rows((piece,), bound, i)
                T.buffer_store(at, source_row(piece, bound, picked, i), [r])
            load = partial(element, bound.sources[piece.source], at, piece.column)
            made.append(Stretch(int64(offset), int64(piece.width), load))
            offset += piece.width
        return made

    return found


def element(source: Buffer, rows: Buffer, column: int, r: Expr, k: Expr) -> Expr:
    """What lies k columns from `column` on in the r-th of some rows."""
    return source[rows[r], k + column]


def is_readable_in_place(pieces: tuple[Piece, ...]) -> bool:
    """Whether a tile has few enough and long enough loops over them."""
    return len(pieces) <= MOST_STRETCHES and min(p.width for p in pieces) >= LEAST_WIDTH


def pick_rows(pieces: tuple[Piece, ...], bound: Bound, i: Expr) -> dict[int, Expr]:
    """For row i, the rows of sources that the pieces' index vectors name, each read once."""
    return {
        slot: T.bind(bound.indices[slot][bound.index_starts[slot] + i].astype("int64"))
        for slot in operands(pieces).indices
    }


def source_row(piece: Piece, bound: Bound, picked: dict[int, Expr], i: Expr) -> Expr:
    """The source's row for row i of a piece."""
    return bound.starts[piece.source] + i if piece.index is None else picked[piece.index]
