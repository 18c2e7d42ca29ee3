"""How a kernel is cut, from its knobs: what its data layout depends on.

A product multiplies row-major rows with weights packed in panels of NR columns, `[panels][K][NR]`.
With bfloat16 operands a panel is `[K/2][NR]` of words, two values of a column each; for AMX a
multiple of 16 rows of them. A narrow one,
of few columns, has its lanes along K and takes its weights transposed, `[1][N][K]`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm.target import Target

from .knobs import (
    AMX_HEIGHT,
    AMX_SIDE,
    OUTER_ROWS,
    DirectKnobs,
    OuterKnobs,
    ProductKnobs,
    falling,
    has_far_l3,
    heights_below,
    packed_bytes,
    packed_rows,
    product_heights,
    window,
)
from .target import Simd, caches, simd

MAX_NARROW = 8  # rows of a narrow product's tile, vectors of a narrow weight gradient's
NARROW_K = 4  # rows of a narrow right operand, in vectors, at least
NARROW_VECTORS = 3.5  # columns of a narrow weight gradient's right operand, in vectors, at most
NARROW_SUMS = 16  # vectors of sums of a narrow weight gradient
SPARE_REGISTERS = 4  # beside the sums of the widest
LONG_K = 8  # vectors from which on a product gains whatever the columns; before that panels are
BUSY_LANES = 0.7  # better where more of their lanes have work
L1_BYTES = 32 * 1024  # where the CPU does not name its nearest cache


@dataclass(frozen=True)
class Tile:
    """How a product is cut: part of a kernel's identity."""

    lanes: int  # float32 elements of one vector
    vectors: int  # vectors of a panel's row
    heights: tuple[int, ...]  # rows of the register tiles, descending; the last is 1
    block: int  # rows that go through all panels together
    parts: tuple[int, int] = (1, 1)  # (row parts, panel parts) that run in parallel
    narrow: bool = False  # lanes run along K: of the sum in a product, of C's rows in an outer
    even: bool = False  # blocks of rows of about one size
    ahead: int = 0  # rows of packed weights, or vectors of direct ones, that are asked for
    next_panel: bool = False  # ask for the next panel meanwhile
    depth: int = 0  # rows of weights, or of a weight gradient, before the next panel; 0: all
    amx: bool = False  # by registers of 16 rows x 16 words
    packs: bool = True  # a product's rows are copied side by side, not read where they lie
    group: int = 0  # panels of a weight gradient that take all rows before the next; 0: all;
    # columns of a narrow one that are summed up at once, at most

    @property
    def columns(self) -> int:
        """NR, the columns of a panel."""
        return self.lanes * self.vectors

    @property
    def tasks(self) -> int:
        """Independent parts of the work."""
        return self.parts[0] * self.parts[1]

    def with_vectors(self, vectors: int) -> "Tile":
        """The same with panels of so many vectors."""
        return replace(self, vectors=vectors)


@dataclass(frozen=True)
class Strip:
    """How a region is cut: elements that are computed at once, and parts of its rows.

    ahead: whether a row asks for what the next one reads and writes.
    """

    lanes: int
    parts: tuple[int, int] = (1, 1)
    ahead: bool = False

    @property
    def tasks(self) -> int:
        """Independent parts of the work."""
        return self.parts[0]


def panels(n_columns: int, tile: Tile) -> int:
    """Panels that `n_columns` columns take."""
    return -(-n_columns // tile.columns)


def weights_shape(k: int, n_columns: int, tile: Tile) -> tuple[int, int, int]:
    """Shape of a product's packed weights; `k` in words where they are bfloat16."""
    if tile.narrow:
        return 1, n_columns, -(-k // tile.lanes) * tile.lanes
    depth = -(-k // AMX_SIDE) * AMX_SIDE if tile.amx else k
    return panels(n_columns, tile), depth, tile.columns


def digest(tile: Tile | Strip) -> str:
    """A short name of a tile."""
    return hashlib.sha256(repr(tile).encode()).hexdigest()[:8]


def product_tile(target: Target, k: int, precision: str, knobs: ProductKnobs) -> Tile:
    """A product over k, cut as its knobs say, for one thread."""
    depth = window(target, k) if precision == "float32" else 0
    return Tile(
        simd(target).lanes,
        knobs.vectors,
        _heights(knobs.height, product_heights),
        knobs.block,
        even=knobs.even,
        ahead=knobs.ahead,
        next_panel=knobs.next_panel,
        depth=depth,
        amx=knobs.height == AMX_HEIGHT,
        packs=knobs.packs or depth > 0 or precision == "bf16",
    )


def outer_tile(target: Target, k: int, precision: str, knobs: OuterKnobs) -> Tile:
    """A weight gradient [n, k]^T x [n, ...] cut as its knobs say, for one thread.

    Its `depth` is the rows of the result that a block of so many columns of A is packed for.
    """
    heights, amx = _heights(knobs.height, heights_below), knobs.height == AMX_HEIGHT
    room = packed_bytes(caches(target)) // (4 * knobs.block)
    deep = precision == "float32" and k > room
    return Tile(
        simd(target).lanes,
        knobs.vectors,
        heights,
        knobs.block,
        ahead=knobs.ahead,
        depth=max(1, room // heights[0]) * heights[0] if deep else 0,
        amx=amx,
        group=knobs.group,
    )


def _heights(height: int, below: Callable[[int], tuple[int, ...]]) -> tuple[int, ...]:
    """The heights of a kernel's tiles, its tallest being `height`; whole registers of AMX."""
    return (AMX_HEIGHT, AMX_SIDE) if height == AMX_HEIGHT else below(height)


def direct_tile(target: Target, k: int, transposed: bool, knobs: DirectKnobs) -> Tile:
    """A product with unpacked weights, cut as its knobs say, for one thread."""
    heights = heights_below(knobs.height)
    if transposed:
        heights = falling(*heights, heights[0] // 2)
    return Tile(
        simd(target).lanes,
        knobs.vectors,
        heights,
        packed_rows(target, 4 * k, heights[0]),
        narrow=transposed,
        ahead=knobs.ahead,
        depth=knobs.depth,
    )


def direct_panels(n_columns: int, tile: Tile) -> int:
    """Panels of `n_columns` columns in a product that reads its weights row-major."""
    return -(-n_columns // (tile.vectors if tile.narrow else tile.columns))


def is_narrow(target: Target, k: int, n_columns: int, precision: str) -> bool:
    """Whether a product of float32 operands puts its lanes along K.

    Measured on Zen 5: K = 256 and N = 5 run at 170 GFLOP/s so, and at 45 in a panel of 16; below
    K = 64 adding up the lanes takes as long as the products. On Zen 4, of the FMA peak, K = 64: N =
    9 to 11 0.55 to 0.6 after 0.42 to 0.5; K = 256: N = 9 to 28 0.77 to 0.84 after 0.44 to 0.78;
    where rows come from memory 0.5 to 0.75 after 0.29 to 0.46; less if weights leave L1. As AVX2
    there, K = 256: N = 5 to 12 76 to 99 GFLOP/s after 41 to 67. On a Sapphire Rapids beside busy
    neighbours 1.0 to 1.7 times the speed of panels up to N = 12, 0.6 to 1.0 at 13 to 16 and 24 to
    28: there panels that fill their lanes stay.
    """
    unit = simd(target)
    if precision != "float32" or k < NARROW_K * unit.lanes or n_columns > most_narrow(unit):
        return False
    busy, near = n_columns / (-(-n_columns // unit.lanes) * unit.lanes), caches(target)
    in_l1 = 4 * k * n_columns <= (near.l1 or L1_BYTES)
    gains = busy <= BUSY_LANES or (k >= LONG_K * unit.lanes and not has_far_l3(near))
    return 2 * n_columns <= unit.lanes or (gains and in_l1)


def is_narrow_outer(unit: Simd, k: int, n_columns: int, precision: str) -> bool:
    """Whether a weight gradient of float32 operands puts its lanes along the rows of C.

    Neither operand is packed then, and no lane is idle. Measured on Zen 4, K from 64 to 512: N = 5
    to 56 run at 0.9 to 1.0 of the FMA peak so, in panels at 0.24 to 0.82, where rows come from
    memory at 0.4 to 0.96 and 0.16 to 0.69; as AVX2 there N = 5 to 20 at 1.1 to 2.5 times the speed
    of panels, to 24 at the same.
    """
    few = n_columns <= min(NARROW_VECTORS * unit.lanes, 2 * most_narrow(unit))
    return precision == "float32" and few and k >= NARROW_K * unit.lanes


def most_narrow(unit: Simd) -> int:
    """Columns of a narrow right operand that are summed up at once: two vectors, if sums fit."""
    return min(2 * unit.lanes, unit.registers - SPARE_REGISTERS)


def narrow_product_tile(unit: Simd, n_columns: int) -> Tile:
    """The tallest tile whose sums leave room for a vector of each row and one of weights.

    Of many columns a row at a time: taller tiles read rows from memory at half of the speed.
    """
    height = max(1, min(MAX_NARROW, (unit.registers - 1) // (n_columns + 1)))
    if 2 * n_columns > unit.lanes:
        height = 1
    return Tile(unit.lanes, 1, falling(height, height // 2, 1), block=1, narrow=True)


def narrow_outer_tile(target: Target, k: int, n_columns: int) -> Tile:
    """Even panels of C's rows, whose sums leave room for a vector of each and a value."""
    unit = simd(target)
    group = most_narrow(unit)
    room = min((unit.registers - 1) // (n_columns + 1), NARROW_SUMS // n_columns)
    most = max(1, min(MAX_NARROW, room))
    n_vectors = -(-k // unit.lanes)
    vectors = -(-n_vectors // -(-n_vectors // most))
    block = packed_rows(target, 4 * k, OUTER_ROWS)
    return Tile(unit.lanes, vectors, (1,), block, narrow=True, group=group)
