"""Left operands of products as frozen data: concatenations of pieces of row-major buffers.

A piece is a range of columns of one source buffer, its rows taken in order or through an index
vector. Several pieces may share a source or an index; each is then one parameter of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from .errors import ShapeError
from .loopnest import Buffer, Expr, arrays, int64, loop, scalars, scratch, vectors


@dataclass(frozen=True)
class Piece:
    """`width` columns from `column` on of source number `source`, a float32[rows, ld] buffer.

    Row i is row `start + i` of the source or, with an index, row `indices[index][istart + i]`.
    """

    width: int
    source: int
    ld: int
    column: int = 0
    index: int | None = None


@dataclass(frozen=True)
class Operands:
    """What a kernel over pieces is called with, by slot number, in the order of its parameters."""

    starts: tuple[int, ...]  # sources read in row order: each has a start
    indices: tuple[int, ...]  # index vectors: each has a start, all of which follow
    sources: tuple[tuple[int, int], ...]  # (slot, ld)


def operands(pieces: tuple[Piece, ...]) -> Operands:
    """The parameters that pieces need, each once.

    Raises:
        ShapeError: no pieces, a piece outside of its source, or a source with two widths.
    """
    if not pieces:
        raise ShapeError("an operand without pieces; give at least one Piece")
    widths: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        if piece.width < 1 or piece.column < 0 or piece.column + piece.width > piece.ld:
            raise ShapeError(
                f"piece {number}: columns {piece.column}:{piece.column + piece.width} do not lie in "
                f"source {piece.source}, which has {piece.ld} columns"
            )
        if widths.setdefault(piece.source, piece.ld) != piece.ld:
            raise ShapeError(
                f"piece {number}: source {piece.source} has {piece.ld} columns here and "
                f"{widths[piece.source]} in another piece; give each buffer a number of its own"
            )
    return Operands(
        starts=tuple(sorted({p.source for p in pieces if p.index is None})),
        indices=tuple(sorted({p.index for p in pieces if p.index is not None})),
        sources=tuple(sorted(widths.items())),
    )


@dataclass(frozen=True)
class Bound:
    """The parameters of `operands`, inside a kernel, by slot number."""

    starts: dict[int, Expr]
    index_starts: dict[int, Expr]
    sources: dict[int, Buffer]
    indices: dict[int, Buffer]


Shapes = list[tuple[str, tuple["int | None", ...], str]]


def bind(
    first: list[str], needs: Operands, last: Shapes
) -> tuple[list[Expr], Bound, list[Buffer]]:
    """Declares `first` scalars, the parameters of `needs`, then the `last` arrays."""
    names = [f"start{slot}" for slot in needs.starts] + [f"istart{slot}" for slot in needs.indices]
    values = scalars(first + names)
    offsets = values[len(first) :]
    shapes: Shapes = [(f"source{slot}", (None, ld), "float32") for slot, ld in needs.sources]
    shapes += [(f"index{slot}", (None,), "int32") for slot in needs.indices]
    buffers = arrays(shapes + last)
    n_sources, n_inputs = len(needs.sources), len(shapes)
    bound = Bound(
        starts=dict(zip(needs.starts, offsets)),
        index_starts=dict(zip(needs.indices, offsets[len(needs.starts) :])),
        sources={slot: buffers[i] for i, (slot, _) in enumerate(needs.sources)},
        indices=dict(zip(needs.indices, buffers[n_sources:n_inputs])),
    )
    return values[: len(first)], bound, buffers[n_inputs:]


def is_direct(pieces: tuple[Piece, ...]) -> bool:
    """Whether rows can be read where they are: one piece, in row order."""
    return len(pieces) == 1 and pieces[0].index is None


Load = Callable[[Expr, Expr], Expr]


def packer(pieces: tuple[Piece, ...], bound: Bound, block: int, lanes: int) -> Callable[..., Load]:
    """`pack(first, count) -> load`: after it, `load(i, k)` is row `first + i` of the operand.

    Rows that can be read where they are stay there; others are copied side by side, once, into a
    scratch block that stays in cache. (Transposing them as well was measured and gains nothing.)
    """
    if is_direct(pieces):
        piece = pieces[0]
        start = bound.starts[piece.source]
        source = bound.sources[piece.source]

        def direct(first: Expr, _count: Expr) -> Load:
            row = T.bind(start + first)
            return lambda i, k: source[row + i, k + piece.column]

        return direct
    rows = scratch([block, sum(piece.width for piece in pieces)])

    def pack(first: Expr, count: Expr) -> Load:
        with loop(count) as i:
            offset = 0
            picked = {
                slot: T.bind(vector[bound.index_starts[slot] + first + i].astype("int64"))
                for slot, vector in bound.indices.items()
            }
            for piece in pieces:
                copy_piece(piece, rows, i, offset, source_row(piece, bound, picked, first + i))
                offset += piece.width
        return lambda i, k: rows[i, k]

    def copy_piece(piece: Piece, to: Buffer, i: Expr, offset: int, row: Expr) -> None:
        source = bound.sources[piece.source]
        vectors(
            piece.width,
            lanes,
            lambda j: T.buffer_store(to, source[row, j + piece.column], [i, j + offset]),
        )

    return pack


def source_row(piece: Piece, bound: Bound, picked: dict[int, Expr], i: Expr) -> Expr:
    """The source's row for row i of a piece."""
    return bound.starts[piece.source] + i if piece.index is None else picked[piece.index]


__all__ = ["Bound", "Load", "Operands", "Piece", "bind", "int64", "operands", "packer"]
