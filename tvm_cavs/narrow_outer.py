"""Weight gradients with few columns: the result is summed up transposed.

The lanes run along the rows of C, that is the columns of A, since a panel of so few columns would
leave most of them idle. A register tile is all columns of C by a panel of its rows; after a block
of rows of A and B it is added to C, one element at a time.
"""

from __future__ import annotations

from tvm.tirx.script import builder as T

from .loopnest import Expr, loop
from .operands import Load
from .register_tile import Target, accumulate, by_panel


def column_tiles(
    k_size: int, part: tuple[Expr, Expr], rows: Expr, left: Load, right: Load, to: Target
) -> None:
    """Panels `part` (first, count) of the `k_size` rows of C take the sum over a block of rows."""
    whole = to.cut.columns
    n_panels = -(-k_size // whole)
    begin, count = part
    with loop(count) as p:
        panel = T.bind(begin + p)

        def some(height: int) -> None:
            column_tile(height, panel * whole, rows, left, right, to)

        by_panel(panel, n_panels, whole, k_size - (n_panels - 1) * whole, some)


def column_tile(height: int, first: Expr, rows: Expr, left: Load, right: Load, to: Target) -> None:
    """Rows `first` to `first + height` of C += or = the sum over a block of rows."""
    n, lanes = to.n_columns, to.cut.lanes
    acc = accumulate(
        n, height, lanes, rows, lambda i: lambda j, k: right(i, j) * left(i, first + k)
    )

    def write(adds: bool) -> None:
        with loop(height, "vector") as k, loop(n, "row") as j:
            at = to.at(first + k, j)
            T.buffer_store(to.out, to.out[tuple(at)] + acc[j, k] if adds else acc[j, k], at)

    to.either(write)
