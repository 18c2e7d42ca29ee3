"""The target-dependent choices that a kernel's data layout and signature depend on.

A product multiplies row-major rows with weights packed in panels of NR columns, `[panels][K][NR]`.
With bfloat16 operands a panel is `[K/2][NR]` of words, two values of a column each. A narrow one,
of few columns, has its lanes along K and takes its weights transposed, `[1][N][K]`. What is chosen
here, from the target's vector unit and the product's sizes: all this, NR, the heights of the
register tiles, the rows that are packed at once, and how the work is cut for threads.

Measured on Zen 5 with AVX-512: tiles of 6 x 64, 8 x 48, 5 x 80 and 12 x 32 all reach the machine's
limit (220 to 230 GFLOP/s of one core), 14 x 16 eight tenths of it. So NR may follow N: the panel
width that wastes the fewest lanes of the last panel wins, and no width falls off a cliff. The same
tiles reach 450 to 485 GFLOP/s with bfloat16 operands, of 490 that the instruction allows.
"""

from dataclasses import dataclass, replace
from math import gcd

from tvm.target import Target

from .target import Simd, simd, threads

PACKED_BYTES = 256 * 1024  # packed rows of the left operand: half of a small L2 cache
PART_BYTES = 512 * 1024  # what a product hands to what comes after it: part of an L2 cache
PART_MULTIPLE = 48  # rows that pay for streaming the weights once
GRAIN_SECONDS = 12e-6  # work below this stays on one thread: starting the others costs about 4 us
FLOPS = {"float32": 150e9, "bf16": 300e9}  # rough speed of one core, only for the grain
ELEMENT = {"float32": 4, "bf16": 2}  # bytes of an operand's element
BYTES = 60e9  # rough speed at which one core streams weights, only for the grain
MIN_BF16_K = 32  # rows of the weights from which bfloat16 operands pay
MAX_VECTORS = 5  # of a panel
MAX_HEIGHT = 12  # rows of a register tile
MAX_NARROW = 8  # rows of a narrow product's tile, vectors of a narrow weight gradient's
DOT_COLUMNS = 4  # columns of a tile whose weights are read transposed, row-major
DIRECT_ROWS = 32  # rows of weights that a direct product reads before it turns to the next ones
DIRECT_AHEAD = 8  # vectors from the weights that are read to those asked for, in a row
NARROW_LANES = 0.5  # columns of a narrow right operand, by the lanes of a vector, at most
NARROW_K = 4  # and its rows, in vectors, at least


@dataclass(frozen=True)
class Tile:
    """How a product is cut: part of a kernel's identity, and what its records are keyed by."""

    lanes: int  # float32 elements of one vector
    vectors: int  # vectors of a panel's row
    heights: tuple[int, ...]  # rows of the register tiles, descending; the last is 1
    block: int  # rows packed at once
    parts: tuple[int, int] = (1, 1)  # (row parts, panel parts) that run in parallel
    narrow: bool = False  # lanes run along K: of the sum in a product, of C's rows in an outer

    @property
    def columns(self) -> int:
        """NR, the columns of a panel."""
        return self.lanes * self.vectors

    @property
    def tasks(self) -> int:
        """Independent parts of the work."""
        return self.parts[0] * self.parts[1]


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel, and the row count from which it is the one to call."""

    suffix: str
    tile: Tile
    min_rows: int


def panels(n_columns: int, tile: Tile) -> int:
    """Panels that `n_columns` columns take."""
    return -(-n_columns // tile.columns)


def weights_shape(k: int, n_columns: int, tile: Tile) -> tuple[int, int, int]:
    """Shape of a product's packed weights; `k` in words where they are bfloat16."""
    if tile.narrow:
        return 1, n_columns, -(-k // tile.lanes) * tile.lanes
    return panels(n_columns, tile), k, tile.columns


def choose(variants: tuple[Variant, ...], n_rows: int) -> Variant:
    """The variant to call for `n_rows` rows."""
    return [v for v in variants if v.min_rows <= n_rows or v is variants[0]][-1]


def operand_precision(k: int, precision: str) -> str:
    """`precision`, or float32 for a product whose sums or gradient rows are too short to gain.

    Measured on Zen 5: from K = 33 on bfloat16 is 1.3 to 2 times faster; at K = 5, 8, 16 the
    product or its weight gradient is slower by up to a fifth.
    """
    return precision if k >= MIN_BF16_K else "float32"


def product_variants(
    target: Target, k: int, n_columns: int, precision: str = "float32"
) -> tuple[Variant, ...]:
    """Forms of the product [n, k] x [k, n_columns]: serial, then parallel where threads exist.

    All of them read the same packed weights.
    """
    unit, element = simd(target), ELEMENT[precision]
    if is_narrow(unit, k, n_columns, precision):
        serial = narrow_product_tile(unit, n_columns)
    else:
        vectors = panel_vectors(unit, n_columns)
        heights = tile_heights(unit, vectors)
        serial = Tile(unit.lanes, vectors, heights, packed_rows(k * element, heights[0]))
    parts = product_parts(threads(target), panels(n_columns, serial))
    work = k * n_columns
    return with_parallel(serial, parts, 2 * work / FLOPS[precision], element * work / BYTES)


def outer_variants(
    target: Target, k: int, n_columns: int, precision: str = "float32"
) -> tuple[Variant, ...]:
    """Forms of the weight gradient [n, k]^T x [n, n_columns]; threads split its columns or rows."""
    unit, element = simd(target), ELEMENT[precision]
    if is_narrow(unit, k, n_columns, precision):
        serial = narrow_outer_tile(unit, k, n_columns)
        parts = outer_parts(threads(target), 1, panels(k, serial))
    else:
        vectors = panel_vectors(unit, n_columns)
        heights = tile_heights(unit, vectors)
        serial = Tile(unit.lanes, vectors, heights, packed_rows(k * element, 32))
        parts = outer_parts(threads(target), panels(n_columns, serial), -(-k // heights[0]))
    work = k * n_columns
    return with_parallel(serial, parts, 2 * work / FLOPS[precision], 8 * work / BYTES)


def direct_variants(
    target: Target, k: int, n_columns: int, transposed: bool
) -> tuple[Variant, ...]:
    """Forms of the product [n, k] x [k, n_columns] that reads its weights row-major, unpacked.

    Where they lie transposed, a tile's lanes run along K, and its `vectors` are columns. Measured
    on Zen 4, weights in L3: with 1 and 2 rows 0.85 to 1 of the speed that packed weights allow,
    with more 0.8 to 0.97; weights that come from memory are read at half the speed of packed ones.
    """
    unit = simd(target)
    vectors = DOT_COLUMNS if transposed else panel_vectors(unit, n_columns)
    heights = tile_heights(unit, vectors)
    if transposed:
        heights = falling(*heights, heights[0] // 2)
    rows = packed_rows(4 * k, heights[0])
    serial = Tile(unit.lanes, vectors, heights, rows, narrow=transposed)
    parts = 1, min(threads(target), direct_panels(n_columns, serial))
    work = k * n_columns
    return with_parallel(serial, parts, 2 * work / FLOPS["float32"], 4 * work / BYTES)


def direct_panels(n_columns: int, tile: Tile) -> int:
    """Panels of `n_columns` columns in a product that reads its weights row-major."""
    return -(-n_columns // (tile.vectors if tile.narrow else tile.columns))


def is_narrow(unit: Simd, k: int, n_columns: int, precision: str) -> bool:
    """Whether a product or weight gradient of float32 operands puts its lanes along K.

    Measured on Zen 5: K = 256 and N = 5 run at 170 GFLOP/s so, and at 45 in a panel of 16; at N = 8
    twice as fast. From N = 10 on the gain is lost where rows come from memory, below K = 64 where
    adding up the lanes takes as long as the products.
    """
    few = n_columns <= NARROW_LANES * unit.lanes
    return precision == "float32" and few and k >= NARROW_K * unit.lanes


def narrow_product_tile(unit: Simd, n_columns: int) -> Tile:
    """The tallest tile whose sums leave room for a vector of each row and one of weights."""
    height = max(1, min(MAX_NARROW, (unit.registers - 1) // (n_columns + 1)))
    return Tile(unit.lanes, 1, falling(height, height // 2, 1), block=1, narrow=True)


def narrow_outer_tile(unit: Simd, k: int, n_columns: int) -> Tile:
    """Even panels of C's rows, whose sums leave room for a vector of each and a value."""
    most = max(1, min(MAX_NARROW, (unit.registers - 1) // (n_columns + 1)))
    n_vectors = -(-k // unit.lanes)
    vectors = -(-n_vectors // -(-n_vectors // most))
    return Tile(unit.lanes, vectors, (1,), packed_rows(4 * k, 32), narrow=True)


def with_parallel(
    serial: Tile, parts: tuple[int, int], row_seconds: float, fixed_seconds: float
) -> tuple[Variant, ...]:
    """The serial form, and the parallel one from the row count at which it is worth starting.

    `fixed_seconds` is the time to stream what a single row needs: where that alone is worth
    threads, and every thread streams only its part, there is no serial form.
    """
    tile = replace(serial, parts=parts)
    if tile.tasks == 1:
        return (Variant("", serial, 1),)
    if fixed_seconds >= GRAIN_SECONDS and parts[0] == 1:
        return (Variant("", tile, 1),)
    min_rows = max(2, round(GRAIN_SECONDS / row_seconds))
    return (Variant("", serial, 1), Variant("_parallel", tile, min_rows))


def panel_vectors(unit: Simd, n_columns: int) -> int:
    """Vectors of a panel: few lanes wasted on the last panel, weighed by the tile's speed."""

    def cost(vectors: int) -> tuple[float, int]:
        used = -(-n_columns // (vectors * unit.lanes)) * vectors
        height = tile_heights(unit, vectors)[0]
        work = height * vectors  # multiply-adds of a step, two a cycle
        loads = height + vectors  # so are loads
        rest = 0.02 * (vectors == MAX_VECTORS)  # short tiles: more rows are left over
        return round(used * (1 + 0.2 * loads / work + rest), 6), -work

    return min(range(1, MAX_VECTORS + 1), key=cost)


def tile_heights(unit: Simd, vectors: int) -> tuple[int, ...]:
    """Register tile heights: the tallest whose accumulators leave a row of weights and a value.

    Then two thirds and one third of it, for the last rows, and 1.
    """
    height = max(1, min(MAX_HEIGHT, (unit.registers - vectors - 1) // vectors))
    return falling(height, round(height * 2 / 3), round(height / 3), 1)


def falling(*heights: int) -> tuple[int, ...]:
    """Heights of register tiles, each once, the tallest first."""
    return tuple(sorted({*heights} - {0}, reverse=True))


def packed_rows(row_bytes: int, multiple: int) -> int:
    """Rows of an operand packed at once: about PACKED_BYTES, a multiple of `multiple`."""
    return max(1, min(PACKED_BYTES // row_bytes, 512) // multiple) * multiple


def part_rows(width: int, n_threads: int) -> int:
    """Rows of a product of `width` columns after which what reads it has its turn.

    The product streams its weights for every such part, so there are never few of them.
    """
    rows = PART_BYTES // (4 * width) // PART_MULTIPLE * PART_MULTIPLE
    return n_threads * max(PART_MULTIPLE, rows)


def product_parts(n_threads: int, n_panels: int) -> tuple[int, int]:
    """(row parts, panel parts): panels where they divide well: a thread streams fewer weights."""
    by_panels = n_threads if n_panels >= 4 * n_threads else gcd(n_threads, n_panels)
    return n_threads // by_panels, by_panels


def outer_parts(n_threads: int, n_panels: int, n_tiles: int) -> tuple[int, int]:
    """(parts of C's rows, panel parts); a part of C's rows is a whole number of tiles."""
    by_panels = n_threads if n_panels >= 4 * n_threads else gcd(n_threads, n_panels)
    return min(n_threads // by_panels, n_tiles), by_panels
