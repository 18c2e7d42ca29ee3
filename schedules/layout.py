"""The compiled variants of a kernel: from its knobs to a tile for every number of rows.

How a product is cut (`tiles.py`) follows from the target's vector unit and caches and the product's
sizes, or from what measuring chose (`choice.py`). A kernel that may see one row or a million is
compiled in several variants; the number of rows decides which one is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import Any

from tvm.target import Target

from .choice import UNTUNED, Bucket, Chosen
from .knobs import (
    ALWAYS,
    BY_SIZE,
    ELEMENT,
    DirectKnobs,
    OuterKnobs,
    ProductKnobs,
    RegionKnobs,
    direct_knobs,
    outer_knobs,
    product_knobs,
    region_knobs,
)
from .knobs import MAX_VECTORS as MAX_VECTORS
from .knobs import tile_heights as tile_heights
from .target import simd, threads
from .tiles import Strip as Strip
from .tiles import Tile as Tile
from .tiles import (
    digest,
    direct_tile,
    is_narrow,
    is_narrow_outer,
    narrow_outer_tile,
    narrow_product_tile,
    outer_tile,
    product_tile,
)
from .tiles import direct_panels as direct_panels
from .tiles import panels as panels
from .tiles import weights_shape as weights_shape

PART_MULTIPLE = 48  # rows that pay for streaming the weights once
GRAIN_SECONDS = 12e-6  # work below this stays on one thread: starting the others costs about 4 us
PACK_GRAIN = 1 << 16  # weights from which threads share their packing: some 20 us of it
FLOPS = {"float32": 150e9, "bf16": 300e9}  # rough speed of one core, only for the grain
BYTES = 60e9  # rough speed at which one core streams weights, only for the grain
MIN_BF16_K = 32  # rows of the weights from which bfloat16 operands pay


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel, and the row count from which it is the one to call."""

    suffix: str
    tile: Any  # a Tile, or the Strip of a region
    min_rows: int


Variants = tuple[Variant, ...]


def choose(variants: Variants, n_rows: int) -> Variant:
    """The variant to call for `n_rows` rows."""
    return [v for v in variants if v.min_rows <= n_rows or v is variants[0]][-1]


def operand_precision(k: int, precision: str) -> str:
    """`precision`, or float32 for a product whose sums or gradient rows are too short to gain.

    Measured on Zen 5: from K = 33 on bfloat16 is 1.3 to 2 times faster; at K = 5, 8, 16 the
    product or its weight gradient is slower by up to a fifth.
    """
    return precision if k >= MIN_BF16_K else "float32"


def product_variants(
    target: Target,
    k: int,
    n_columns: int,
    precision: str = "float32",
    chosen: Chosen = UNTUNED,
    by_level: bool = True,
) -> Variants:
    """Forms of the product [n, k] x [k, n_columns]: serial, then parallel where threads exist.

    Without `by_level` the parallel one alone. All of them read the same packed weights. Where
    knobs were `chosen`, their forms run.
    """
    element, work = ELEMENT[precision], k * n_columns

    def forms(serial: Tile) -> Variants:
        parts = product_parts(threads(target), panels(n_columns, serial))
        return with_parallel(serial, parts, 2 * work / FLOPS[precision], element * work / BYTES)

    if is_narrow(target, k, n_columns, precision):
        return several(forms(narrow_product_tile(simd(target), n_columns)), by_level)
    default = partial(product_knobs, target, k, n_columns, precision)

    def cut(knobs: ProductKnobs) -> Variants:
        return forms(product_tile(target, k, precision, knobs))

    return tuned(default, chosen, cut, by_level)


def outer_variants(
    target: Target,
    k: int,
    n_columns: int,
    precision: str = "float32",
    chosen: Chosen = UNTUNED,
    by_level: bool = True,
) -> Variants:
    """Forms of the weight gradient [n, k]^T x [n, n_columns]; threads split its columns or rows."""
    work = k * n_columns

    def forms(serial: Tile) -> Variants:
        across, down = panels(n_columns, serial), -(-k // serial.heights[0])
        if serial.narrow:
            across, down = 1, panels(k, serial)
        parts = outer_parts(threads(target), across, down)
        return with_parallel(serial, parts, 2 * work / FLOPS[precision], 8 * work / BYTES)

    if is_narrow_outer(simd(target), k, n_columns, precision):
        return several(forms(narrow_outer_tile(target, k, n_columns)), by_level)
    default = partial(outer_knobs, target, k, n_columns, precision)

    def cut(knobs: OuterKnobs) -> Variants:
        return forms(outer_tile(target, k, precision, knobs))

    return tuned(default, chosen, cut, by_level)


def direct_variants(
    target: Target,
    k: int,
    n_columns: int,
    transposed: bool,
    chosen: Chosen = UNTUNED,
    by_level: bool = True,
) -> Variants:
    """Forms of the product [n, k] x [k, n_columns] that reads its weights row-major, unpacked.

    Where they lie transposed, a tile's lanes run along K, and its `vectors` are columns. Measured
    on Zen 4, weights in L3: with 1 and 2 rows 0.85 to 1 of the speed that packed weights allow,
    with more 0.8 to 0.97; weights that come from memory are read at half the speed of packed ones.
    """
    work = k * n_columns

    def forms(serial: Tile) -> Variants:
        parts = 1, min(threads(target), direct_panels(n_columns, serial))
        return with_parallel(serial, parts, 2 * work / FLOPS["float32"], 4 * work / BYTES)

    default = partial(direct_knobs, target, n_columns, transposed)

    def cut(knobs: DirectKnobs) -> Variants:
        return forms(direct_tile(target, k, transposed, knobs))

    return tuned(default, chosen, cut, by_level)


def region_variants(
    target: Target, row_seconds: float, chosen: Chosen = UNTUNED, by_level: bool = True
) -> Variants:
    """Forms of a region whose row takes about `row_seconds`; threads split its rows."""

    def forms(knobs: RegionKnobs) -> Variants:
        strip = Strip(knobs.lanes, ahead=bool(knobs.ahead))
        return with_parallel(strip, (threads(target), 1), row_seconds, 0.0)

    return tuned(partial(region_knobs, target), chosen, forms, by_level)


def several(variants: Variants, by_level: bool) -> Variants:
    """What never runs level by level sees the whole batch at once: it has the last form only."""
    return variants if by_level else variants[-1:]


def tuned(
    default: Callable[..., Any],
    chosen: Chosen,
    forms: Callable[[Any], Variants],
    by_level: bool,
) -> Variants:
    """The default's variants, and in the ranges of rows for which knobs were chosen, those.

    Args:
        default: the default knobs, given those that are shared by all numbers of rows.
    """
    usual = several(forms(default()), by_level)
    if chosen == UNTUNED:
        return usual
    base = several(forms(default(**dict(chosen.shared))), by_level)
    found = [
        (bucket, several(_split(forms(knobs), knobs.split), by_level))
        for bucket, knobs in chosen.by_rows
    ]
    return overlaid(base, found, usual)


def _split(variants: Variants, split: int) -> Variants:
    """The forms by the size of the work, or the one for a single thread or for all of them."""
    if split == BY_SIZE:
        return variants
    tile = variants[-1].tile
    return (Variant("", tile if split == ALWAYS else replace(tile, parts=(1, 1)), 1),)


def overlaid(base: Variants, found: Sequence[tuple[Bucket, Variants]], usual: Variants) -> Variants:
    """`base`, with variants of their own in some buckets of row counts; neighbours alike are one.

    A tile that is one of the `usual` has its name.
    """
    starts = {1, *(v.min_rows for v in base)}
    for bucket, own in found:
        starts |= {bucket.first, bucket.last + 1}
        starts |= {v.min_rows for v in own if v.min_rows in bucket}
    names = {v.tile: v.suffix for v in usual}
    made: list[Variant] = []
    for start in sorted(starts):
        variants = next((own for bucket, own in found if start in bucket), base)
        tile = choose(variants, start).tile
        if not made or made[-1].tile != tile:
            made.append(Variant(names.get(tile, f"_{digest(tile)}"), tile, start))
    return tuple(made)


def with_parallel(
    serial: Any, parts: tuple[int, int], row_seconds: float, fixed_seconds: float
) -> Variants:
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


def part_rows(width: int, n_threads: int, part_bytes: int) -> int:
    """Rows of a product of `width` columns after which what reads it has its turn.

    The product streams its weights for every such part, so there are never few of them.
    """
    rows = part_bytes // (4 * width) // PART_MULTIPLE * PART_MULTIPLE
    return n_threads * max(PART_MULTIPLE, rows)


def product_parts(n_threads: int, n_panels: int) -> tuple[int, int]:
    """(row parts, panel parts): panels where they divide well: a thread streams fewer weights."""
    by_panels = n_threads if n_panels >= 4 * n_threads else gcd(n_threads, n_panels)
    return n_threads // by_panels, by_panels


def pack_tasks(n_threads: int, k: int, n_columns: int, tile: Tile) -> int:
    """Parts in which weights are packed, of small ones one; a narrow product's are one panel."""
    return min(n_threads, panels(n_columns, tile)) if k * n_columns >= PACK_GRAIN else 1


def outer_parts(n_threads: int, n_panels: int, n_tiles: int) -> tuple[int, int]:
    """(parts of C's rows, panel parts); a part of C's rows is a whole number of tiles."""
    by_panels = n_threads if n_panels >= 4 * n_threads else gcd(n_threads, n_panels)
    return min(n_threads // by_panels, n_tiles), by_panels
