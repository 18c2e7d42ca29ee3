"""Operands of products for tests: pieces, NumPy arrays for them, and how kernels are called."""

from collections.abc import Sequence

import numpy as np
import tvm

from helpers import leftovers
from schedules.layout import Tile
from tvm_cavs.compiler.lowering import specs
from tvm_cavs.compiler.lowering.specs import Piece, operands

FIRST, INDEX_FIRST, ROWS = 7, 3, 300
GUARD = 4  # rows before and after a result


def two_pieces(k: int) -> tuple[Piece, ...]:
    """Row-indexed and gathered columns side by side, from inside wider buffers."""
    if k == 1:
        return (Piece(1, 0, 3, 2, 0),)
    half = k // 2
    return (Piece(half, 0, half + 3, 2, 0), Piece(k - half, 1, k + 1, 1))


def one_source(k: int) -> tuple[Piece, ...]:
    """Both columns' pieces from one source: gathered through two indices, and in row order."""
    if k < 3:
        return (Piece(k, 0, k),)
    third = k // 3
    return (Piece(third, 0, k, 0, 0), Piece(third, 0, k, 1, 1), Piece(k - 2 * third, 0, k, third))


def counts(tile: Tile, some: Sequence[int]) -> list[int]:
    """Some counts of rows, and those at which the last block of rows is nearly empty or full.

    So every block of a kernel is the last one once, the second and third included.
    """
    edges = (1, 1), (2, 1), (3, -1)
    return [*some, *(f * tile.block + d for f, d in edges if tile.block > 1)]


def sum_counts(tile: Tile, some: Sequence[int]) -> list[int]:
    """`counts`, and those from which on there is one more block of rows to sum up, or not yet."""
    quarters = (5, 9) if tile.block > 1 else ()
    return [*counts(tile, some), *(q * tile.block // 4 + more for q in quarters for more in (0, 1))]


def call(kernel, *args):
    """Calls with NumPy arrays and ints; returns the arrays as they are afterwards."""
    tensors = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in args]
    leftovers.run(kernel, *tensors)
    return [t.numpy() for t in tensors if not isinstance(t, int)]


def inputs(rng, pieces: tuple[Piece, ...], n: int):
    """Arguments of `operands(pieces)` for n rows, and the operand they stand for.

    What the operand does not contain of the sources is NaN.
    """
    needs, rows = operands(pieces), max(ROWS, FIRST + n)
    values = {slot: rng.standard_normal((rows, ld), dtype="float32") for slot, ld in needs.sources}
    sources = {slot: np.full((rows, ld), np.nan, "float32") for slot, ld in needs.sources}
    indices = {s: rng.integers(0, rows, n + INDEX_FIRST, dtype="int32") for s in needs.indices}
    offsets = [FIRST] * len(needs.starts) + [INDEX_FIRST] * len(needs.indices)
    columns = []
    for p in pieces:
        taken = slice(FIRST, FIRST + n) if p.index is None else indices[p.index][INDEX_FIRST:]
        at = taken, slice(p.column, p.column + p.width)
        sources[p.source][at] = values[p.source][at]
        columns.append(values[p.source][at])
    return offsets, [*sources.values(), *indices.values()], np.concatenate(columns, 1)


def result(rng, spec, n: int):
    """A result's array with rows around it, and where in it the product goes.

    What is to be replaced and not added to is NaN.
    """
    out = rng.standard_normal((n + 2 * GUARD, spec.ldc), dtype="float32")
    place = slice(GUARD, GUARD + n), slice(spec.column, spec.column + spec.n_columns)
    if not spec.accumulate:
        out[place] = np.nan
    return out, place


PACK = specs.Pack(
    shapes=((20, 30), (70, 11), (9, 9)),
    placements=(
        specs.Placement(0, 0, 3, (2, 20), (5, 30)),
        specs.Placement(1, 0, 40, (0, 70), (3, 11), transposed=True),
        specs.Placement(2, 20, 0, (1, 2), (0, 9)),
    ),
    k=25,
    n_columns=113,
)
WHOLE = specs.Pack(((25, 60), (53, 25)), (
    specs.Placement(0, 0, 0, (0, 25), (0, 60)),
    specs.Placement(1, 0, 60, (0, 53), (0, 25), transposed=True),
), 25, 113)  # fmt: skip


def assembled(spec: specs.Pack, parameters: list[np.ndarray]) -> np.ndarray:
    """The operand that a Pack stands for."""
    weights = np.zeros((spec.k, spec.n_columns), "float32")
    for p in spec.placements:
        block = parameters[p.parameter][slice(*p.rows), slice(*p.columns)]
        height, width = p.shape
        weights[p.row : p.row + height, p.column : p.column + width] = (
            block.T if p.transposed else block
        )
    return weights


BLOCKS = specs.Pack(  # transposed, in whole blocks of any vector and what is left over of them
    ((53, 42), (64, 60)),
    (
        specs.Placement(0, 9, 0, (1, 50), (2, 41), transposed=True),
        specs.Placement(1, 0, 49, (0, 64), (0, 60), transposed=True),
    ),
    60,
    113,
)
