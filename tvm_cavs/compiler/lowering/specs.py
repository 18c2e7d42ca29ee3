"""Specifications of kernels as frozen data: what a kernel computes, not how.

Left operands are concatenations of pieces of row-major buffers: a piece is a range of columns of
one source buffer, its rows taken in order or through an index vector. Several pieces may share a
source or an index; each is then one parameter of the kernel. `compiler/kernels` emits code for
these.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ShapeError


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
                f"piece {number}: columns {piece.column}:{piece.column + piece.width} do not lie "
                f"in source {piece.source}, which has {piece.ld} columns"
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
class Product:
    """C[start_c + i, column + j] = sum_k A(i, k) * W[k, j] for i < n, or += with `accumulate`.

    A is the pieces side by side, W float32[panels, K, NR] packed, C float32[rows, ldc]. Rows from
    `start_c + n` on are never written; columns from `column + n_columns` on only with `cover`,
    which says that the whole last panel fits and may be written. In `precision` "bf16" A and W are
    rounded to bfloat16 and multiplied exactly, sums are float32, and W is uint32[panels, K/2, NR].
    A narrow product takes W transposed, see `layout.weights_shape`.
    """

    pieces: tuple[Piece, ...]
    n_columns: int
    ldc: int
    column: int = 0
    cover: bool = False
    accumulate: bool = False
    precision: str = "float32"

    @property
    def k(self) -> int:
        """Columns of A."""
        return sum(piece.width for piece in self.pieces)


@dataclass(frozen=True)
class Outer:
    """C[row + k, column + j] += sum_i A(i, k) * B(i, j) over i < n: the gradient of a weight.

    `left` and `right` are the pieces of A and B, C float32[rows, ldc]. With `sums` also
    c[sums + j] += sum_i B(i, j), the gradient of a bias, in the same pass over B. In `precision`
    "bf16" A and B are rounded to bfloat16 and multiplied exactly; all sums, and B in c, are
    float32.
    """

    left: tuple[Piece, ...]
    right: tuple[Piece, ...]
    ldc: int
    column: int = 0
    row: int = 0
    sums: int | None = None
    precision: str = "float32"

    @property
    def k(self) -> int:
        """Columns of A, rows of C."""
        return sum(piece.width for piece in self.left)

    @property
    def n_columns(self) -> int:
        """Columns of B."""
        return sum(piece.width for piece in self.right)


@dataclass(frozen=True)
class ColumnSum:
    """c[column + j] += sum_i B(i, j) over i < n, B the pieces side by side."""

    pieces: tuple[Piece, ...]
    column: int = 0


@dataclass(frozen=True)
class SegmentSum:
    """out[u, j] = sum of source[edge[e], column + j] over e in ptr[u]..ptr[u + 1], for u < n.

    source float32[rows, ld], out float32[rows, ldo], ptr int32[n + 1], edge int32[ptr[n]].
    """

    width: int
    ld: int
    column: int = 0
    ldo: int | None = None


@dataclass(frozen=True)
class Placement:
    """A rectangle of a parameter P in the operand W of a product.

    W[row + a, column + b] = P[rows[0] + a, columns[0] + b], or with `transposed` P[rows[0] + b,
    columns[0] + a].
    """

    parameter: int
    row: int
    column: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of W that it covers."""
        shape = (self.rows[1] - self.rows[0], self.columns[1] - self.columns[0])
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class Pack:
    """W float32[k, n_columns] assembled from rectangles of parameters; the rest is zero."""

    shapes: tuple[tuple[int, int], ...]  # of the parameters, by number
    placements: tuple[Placement, ...]
    k: int
    n_columns: int
    precision: str = "float32"


@dataclass(frozen=True)
class DirectWeights:
    """W[k, j] = P[row + k, column + j], or with `transposed` P[row + j, column + k].

    P is a parameter, float32[rows, ld].
    """

    ld: int
    row: int = 0
    column: int = 0
    transposed: bool = False
