"""Knobs: what may be chosen freely of a kernel's schedule, as frozen data that prints.

A family of kernels has a class of knobs. Their defaults come from the target's vector unit and
caches; records of measurements (`records.py`) hold others. No knob changes what a kernel computes.
Those in SHARED are the same for every number of rows, because they decide how weights are laid out
or in which order terms are added: the same rows give the same bits, whatever form runs.

Measured on Zen 5 with AVX-512: tiles of 6 x 64, 8 x 48, 5 x 80 and 12 x 32 all reach the machine's
limit (220 to 230 GFLOP/s of one core), 14 x 16 eight tenths of it. So NR may follow N: the panel
width that wastes the fewest lanes of the last panel wins, and no width falls off a cliff. The same
tiles reach 450 to 485 GFLOP/s with bfloat16 operands, of 490 that the instruction allows.
"""

from dataclasses import dataclass
from typing import ClassVar

from tvm.target import Target

from .host import Caches
from .target import Simd, caches, simd, threads

PACKED_BYTES = 256 * 1024  # packed rows of the left operand: half of a small L2 cache,
PACKED_SHARE = 4  # a quarter of a large one
MOST_PACKED_BYTES = 512 * 1024
PARTS_OF_PACKED = 2  # what a product hands to what comes after it, in packed rows' bytes
MOST_ROWS = 512  # that are packed at once
DEEP_ROWS = 128  # of a weight gradient, at least: all of its sums are read anew for every block
OUTER_ROWS = 32  # rows packed at once for a weight gradient are a multiple of these
BY_SIZE, NEVER, ALWAYS = range(3)  # whether threads split a kernel; whether weights are packed
MAX_VECTORS = 5  # of a panel
MAX_HEIGHT = 12  # rows of a register tile
AMX_SIDE = 16  # rows of a register of AMX, columns of its sums, words of one step
AMX_HEIGHT = 2 * AMX_SIDE  # rows of a tile: what is loaded is used twice
AMX_VECTORS = 2  # of its columns
AMX_OUTER_BYTES = 1 << 20  # packed rows of a weight gradient: all of its sums are read anew a block
AMX_ROWS = 512  # of such a block, where the CPU does not name its nearest cache
DOT_COLUMNS = 4  # columns of a tile whose weights are read transposed, row-major
L1_SHARE = 2 / 3  # of it, for a block of a weight gradient's panel
LARGE_L2 = 2 << 20  # as Intel's servers have it, beside an L3 that is far
FEW_ROWS, WINDOW_ROWS = 24, 128  # of a block: too few, enough
FAR_ROWS = 64  # too few where all weights come from a far cache for every block
PRODUCT_AHEAD = 8  # rows from the packed weights that are read to those asked for
GROUPED = 8  # times L2: sums of a weight gradient that are computed by groups of panels,
GROUP_SHARE = 4  # each a quarter of L2
NEAR_SHARE = 6  # weights of up to a sixth of L2 are not asked for: much of them is nearer
DIRECT_DEPTH = 32  # rows of weights that a direct product reads before it turns to the next ones
DIRECT_AHEAD = 8  # vectors from the weights that are read to those asked for, in a row
DIRECT_VERTICES = 384  # of a batch of training: up to so many, packing costs more than it saves
ALL_VERTICES = 1 << 31  # more than a batch can have
MOST_BLOCK, MOST_DEPTH, MOST_AHEAD, MOST_GROUP = 4096, 1024, 64, 1024  # that a record may ask for
ELEMENT = {"float32": 4, "bf16": 2}  # bytes of an operand's element


@dataclass(frozen=True)
class ProductKnobs:
    """Of a product [n, K] x [K, N] with packed weights.

    vectors: of a panel's row. height: rows of the tallest register tile. block: rows that go
    through all panels together, a multiple of height. even: blocks of about one size, not full
    ones and a rest. ahead: rows of the weights asked into the nearest cache before they are read;
    0: none. next_panel: the panel after this one is asked into L2 meanwhile. packs: rows are copied
    side by side before they are multiplied, not read where they lie; those of deep products and of
    bfloat16 always are. split: among threads, by the size of the work, never or always.
    """

    SHARED: ClassVar[tuple[str, ...]] = ("vectors",)

    vectors: int
    height: int
    block: int
    even: bool = False
    ahead: int = 0
    next_panel: bool = False
    packs: bool = True
    split: int = BY_SIZE


@dataclass(frozen=True)
class OuterKnobs:
    """Of a weight gradient [n, K]^T x [n, N]: as for a product.

    block: rows summed up at once. ahead: 1: the sums of the next tile are asked for while one is
    computed, a few lines at a time; 0: a tile's own, all at once, before it. group: panels that
    take all rows before the next ones do, so that their sums stay in L2; 0, as always on AMX: all.
    """

    SHARED: ClassVar[tuple[str, ...]] = ("block",)

    vectors: int
    height: int
    block: int
    ahead: int = 0
    group: int = 0
    split: int = BY_SIZE


@dataclass(frozen=True)
class DirectKnobs:
    """Of a product that reads its weights where they lie.

    vectors: of a panel's row, columns of it where they lie transposed. depth: rows of the weights
    that are read before the next panel's. ahead: vectors asked for in a transposed row.
    """

    SHARED: ClassVar[tuple[str, ...]] = ()

    vectors: int
    height: int
    depth: int = DIRECT_DEPTH
    ahead: int = 0
    split: int = BY_SIZE


@dataclass(frozen=True)
class RegionKnobs:
    """Of a region.

    lanes: elements computed at once, also of its sums. ahead: 1: while a row is computed, what the
    next one reads and writes is asked for; 0: nothing is. split: whether threads split its rows.
    """

    SHARED: ClassVar[tuple[str, ...]] = ("lanes",)

    lanes: int
    ahead: int = 0
    split: int = BY_SIZE


@dataclass(frozen=True)
class StepKnobs:
    """Of all kernels that run a batch. Its vertices are the rows of a bucket.

    threads: that run them. direct: a batch of training reads weights where they lie and packs none,
    by its size, never or always.
    """

    SHARED: ClassVar[tuple[str, ...]] = ()

    threads: int
    direct: int = BY_SIZE

    @property
    def direct_vertices(self) -> int:
        """Vertices of a batch of training that packs no weights, at most."""
        return {BY_SIZE: DIRECT_VERTICES, NEVER: 0, ALWAYS: ALL_VERTICES}[self.direct]


Knobs = ProductKnobs | OuterKnobs | DirectKnobs | RegionKnobs | StepKnobs
FAMILIES: dict[str, type[Knobs]] = {
    "product": ProductKnobs,
    "outer": OuterKnobs,
    "direct": DirectKnobs,
    "region": RegionKnobs,
    "step": StepKnobs,
}


def product_knobs(
    target: Target, k: int, n_columns: int, precision: str, vectors: int | None = None
) -> ProductKnobs:
    """The defaults of a product [n, k] x [k, n_columns], its panels of `vectors` if given."""
    unit, row_bytes = simd(target), k * ELEMENT[precision]
    if uses_amx(unit, precision):
        enough = min(WINDOW_ROWS, caches(target).l2 // 2 // row_bytes) // AMX_HEIGHT * AMX_HEIGHT
        block = max(packed_rows(target, row_bytes, AMX_HEIGHT), enough)
        return ProductKnobs(vectors or amx_vectors(n_columns), AMX_HEIGHT, block, even=True)
    vectors = vectors or panel_vectors(unit, n_columns)
    height = tile_heights(unit, vectors)[0]
    deep = window(target, k) if precision == "float32" else 0
    block = packed_rows(target, 4 * deep or row_bytes, height)
    near, weights = caches(target), row_bytes * n_columns
    far = has_far_l3(near)
    return ProductKnobs(
        vectors,
        height,
        block,
        even=far and 2 * weights > near.l2,
        ahead=PRODUCT_AHEAD if far and NEAR_SHARE * weights > near.l2 else 0,
        next_panel=far and 2 * weights > near.l2,
        packs=not far or precision == "bf16",
    )


def outer_knobs(
    target: Target, k: int, n_columns: int, precision: str, block: int | None = None
) -> OuterKnobs:
    """The defaults of a weight gradient [n, k]^T x [n, n_columns], its sums over `block` rows."""
    unit, row_bytes = simd(target), k * ELEMENT[precision]
    if uses_amx(unit, precision):
        panel = int(L1_SHARE * caches(target).l1) // (ELEMENT[precision] * AMX_VECTORS * AMX_SIDE)
        rows = min(AMX_OUTER_BYTES // row_bytes, panel or AMX_ROWS) // OUTER_ROWS * OUTER_ROWS
        return OuterKnobs(amx_vectors(n_columns), AMX_HEIGHT, block or max(OUTER_ROWS, rows))
    vectors = panel_vectors(unit, n_columns)
    height, near = tile_heights(unit, vectors)[0], caches(target)
    usual = packed_rows(target, row_bytes, OUTER_ROWS)
    if precision == "float32":
        usual = max(usual, DEEP_ROWS)
    if not has_far_l3(near):
        return OuterKnobs(vectors, height, block or usual)
    in_l1 = int(L1_SHARE * near.l1) // (4 * vectors * unit.lanes) // OUTER_ROWS * OUTER_ROWS
    block = block or max(OUTER_ROWS, min(usual, in_l1))
    sums, panel = 4 * k * n_columns, 4 * k * vectors * unit.lanes
    group = max(1, near.l2 // GROUP_SHARE // panel) if sums > GROUPED * near.l2 else 0
    return OuterKnobs(vectors, height, block, ahead=int(sums > near.l2), group=group)


def direct_knobs(target: Target, n_columns: int, transposed: bool) -> DirectKnobs:
    """The defaults of a product whose weights are read where they lie."""
    unit = simd(target)
    vectors = DOT_COLUMNS if transposed else panel_vectors(unit, n_columns)
    return DirectKnobs(vectors, tile_heights(unit, vectors)[0], ahead=DIRECT_AHEAD * transposed)


def region_knobs(target: Target, lanes: int | None = None) -> RegionKnobs:
    """The defaults of a region, so many elements at once if `lanes` says so."""
    return RegionKnobs(lanes or simd(target).lanes, int(has_far_l3(caches(target))))


def step_knobs(target: Target) -> StepKnobs:
    """The defaults of a step: all threads, whatever its size."""
    return StepKnobs(threads(target))


def part_bytes(target: Target) -> int:
    """What the steps of a level hand to each other at once."""
    return PARTS_OF_PACKED * packed_bytes(caches(target))


def has_far_l3(near: Caches) -> bool:
    """Whether what is not in L2 is far: a core of Intel's servers reads its L3 at 29 GB/s.

    Measured on Sapphire and Emerald Rapids. Where weights do not stay in L2, asking for them ahead
    gives 1.06 to 1.2 of the speed of a product; asking for the next panel where they do loses.
    Asking for the next rows gains there, too (Granite Rapids: 1.01 to 1.1, the more the fewer
    rows), unless weights are small: 1.03 of the time at 64 x 256. A weight gradient that does
    not stay there gains 1.03 to 1.15 by asking for its sums, any gains 1.05 to 1.1 if a block of
    a panel stays in L1, and one of 26 MB of sums 1.1 to 1.25 by groups of panels. On Zen 4 and 5,
    whose L3 is near, none of it gains. On Granite Rapids windows of a deep product's weights gain
    from K = 2,560 on, a region by asking, and a product by reading rows where they lie: 0.93 to 1.0
    of the time, 0.64 to 0.9 where it has few columns. What that gives elsewhere has not been
    measured.
    """
    return near.l2 >= LARGE_L2


def uses_amx(unit: Simd, precision: str) -> bool:
    """Whether products of this precision run on AMX."""
    return unit.amx and precision == "bf16"


def amx_vectors(n_columns: int) -> int:
    """Vectors of a panel's row: as many as a tile has, unless one holds all columns."""
    return 1 if n_columns <= AMX_SIDE else AMX_VECTORS


def packed_bytes(near: Caches) -> int:
    """Bytes of an operand packed at once: a part of L2, where the weights' panel has to be too.

    Measured: 256 KiB is right for 512 KiB and 1 MiB of L2 (Zen 3, 4 and 5), 512 KiB for 2 MiB
    (Sapphire Rapids). A CPU that does not name its L2 is taken for one of the first sort.
    """
    if not near.l2:
        return PACKED_BYTES
    most = min(near.l2 // 2, MOST_PACKED_BYTES)
    return min(max(PACKED_BYTES, near.l2 // PACKED_SHARE), most)


def window(target: Target, k: int) -> int:
    """Rows of the weights that a product of a deep sum takes at a time; 0: all of them.

    A block of few whole rows would read all weights for these alone: over 33,278 columns a product
    ran at 30 GFLOP/s.
    """
    near = caches(target)
    room = packed_bytes(near) // 4
    few = FAR_ROWS if has_far_l3(near) else FEW_ROWS
    return room // WINDOW_ROWS if k > room // few else 0


def packed_rows(target: Target, row_bytes: int, multiple: int) -> int:
    """Rows of an operand packed at once, a multiple of `multiple`."""
    rows = packed_bytes(caches(target)) // row_bytes
    return max(1, min(rows, MOST_ROWS) // multiple) * multiple


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


def tallest(unit: Simd, vectors: int) -> int:
    """Rows of the tallest tile whose accumulators leave a row of weights and a value."""
    return max(1, min(MAX_HEIGHT, (unit.registers - vectors - 1) // vectors))


def tile_heights(unit: Simd, vectors: int) -> tuple[int, ...]:
    """Register tile heights: the tallest, then two thirds and one third of it, and 1."""
    return heights_below(tallest(unit, vectors))


def heights_below(height: int) -> tuple[int, ...]:
    """A height, then two thirds and one third of it, for the last rows, and 1."""
    return falling(height, round(height * 2 / 3), round(height / 3), 1)


def product_heights(height: int) -> tuple[int, ...]:
    """`heights_below` and one row less than the tallest, so that rows can be shared out evenly."""
    return falling(height, height - 1, *heights_below(height))


def falling(*heights: int) -> tuple[int, ...]:
    """Heights of register tiles, each once, the tallest first."""
    return tuple(sorted({*heights} - {0}, reverse=True))


def misfit(knobs: Knobs, target: Target, precision: str) -> str | None:
    """Why a kernel of this precision cannot have these knobs on a target; None if it can.

    Whoever wrote them down: a kernel on AMX reads words, and its weights are laid out for it.
    """
    unit = simd(target)
    if isinstance(knobs, StepKnobs):
        fits = 1 <= knobs.threads <= threads(target) and knobs.direct in (BY_SIZE, NEVER, ALWAYS)
        return None if fits else f"{knobs} on {threads(target)} thread(s)"
    if knobs.split not in (BY_SIZE, NEVER, ALWAYS):
        return f"split is {knobs.split}"
    if isinstance(knobs, RegionKnobs):
        if knobs.lanes not in (unit.lanes // 2, unit.lanes, 2 * unit.lanes):
            return f"lanes is {knobs.lanes} and a vector has {unit.lanes}"
        return None if knobs.ahead in (0, 1) else f"ahead is {knobs.ahead}"
    vectors, height = knobs.vectors, knobs.height
    amx = uses_amx(unit, precision)
    if amx:
        if height != AMX_HEIGHT or not 1 <= vectors <= AMX_VECTORS:
            return f"a tile of {height} rows x {vectors} vectors is none of {unit.name}"
    elif not (1 <= vectors <= MAX_VECTORS and 1 <= height <= tallest(unit, vectors)):
        return (
            f"a tile of {height} rows x {vectors} vectors does not fit {unit.registers} registers"
        )
    if isinstance(knobs, DirectKnobs):
        fits = 1 <= knobs.depth <= MOST_DEPTH and 0 <= knobs.ahead <= MOST_AHEAD
        return None if fits else f"depth is {knobs.depth}, ahead {knobs.ahead}"
    if isinstance(knobs, ProductKnobs) and precision == "bf16" and not knobs.packs:
        return "packs is False, and operands are rounded to bfloat16 as they are packed"
    if isinstance(knobs, OuterKnobs) and not 0 <= knobs.group <= MOST_GROUP * (not amx):
        return f"group is {knobs.group}"
    multiple = OUTER_ROWS if isinstance(knobs, OuterKnobs) else height
    if knobs.block % multiple or not 1 <= knobs.block <= MOST_BLOCK:
        return f"block is {knobs.block}: no multiple of {multiple} up to {MOST_BLOCK}"
    most = MOST_AHEAD if isinstance(knobs, ProductKnobs) else 1
    return None if 0 <= knobs.ahead <= most else f"ahead is {knobs.ahead}"
