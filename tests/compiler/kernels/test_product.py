"""Products, weight gradients, packing, sums against NumPy: awkward sizes, guard rows, NaNs."""

import re
from dataclasses import replace
from itertools import product as product_of

import numpy as np
import pytest

tvm = pytest.importorskip("tvm")

from tvm.tirx.script import builder as T

import schedules
from helpers.products import (
    BLOCKS,
    GUARD,
    PACK,
    ROWS,
    WHOLE,
    assembled,
    call,
    counts,
    inputs,
    one_source,
    result,
    sum_counts,
    two_pieces,
)
from schedules import layout
from schedules.choice import only
from schedules.knobs import (
    ALWAYS,
    OuterKnobs,
    ProductKnobs,
    heights_below,
    packed_bytes,
    product_heights,
    product_knobs,
)
from schedules.target import caches, make_target, simd
from tvm_cavs.compiler.kernels import loopnest
from tvm_cavs.compiler.kernels.cpu import outer, pack, product, register_tile, sums
from tvm_cavs.compiler.lowering import specs
from tvm_cavs.compiler.lowering.specs import Piece, operands
from tvm_cavs.errors import ShapeError

SPLIT = "_parallel"
TASKS = (1, 2, 3)  # more than TVM's pool has threads is fine: tasks are shared out
SIZES = ((5, 1), (1, 8), (8, 40), (16, 150), (33, 450))  # K, N
NARROW = ((67, 1), (131, 2), (600, 2))  # for every CPU; these too with 16 lanes:
SOMETIMES_NARROW = ((150, 5), (64, 8), (67, 11), (131, 20), (80, 28), (70, 43))
COUNTS = (0, 1, 2, 3, 4, 5, 7, 11, 13, 29, 140)
TARGET = schedules.host_target(2)
LANES = simd(TARGET).lanes


PRODUCTS = {}
OUTERS = {}
for k, n_columns in (*SIZES, *NARROW, *SOMETIMES_NARROW):
    for variant in layout.product_variants(TARGET, k, n_columns):
        tag = f"{k}_{n_columns}{variant.suffix}"
        PRODUCTS[f"product_{tag}"] = (
            specs.Product(two_pieces(k), n_columns, n_columns + 2, 1),
            variant,
        )
        if not variant.suffix:  # parts of the work are added up alike
            PRODUCTS[f"adding_{tag}"] = (
                specs.Product(one_source(k), n_columns, n_columns, accumulate=True),
                variant,
            )
    for variant in layout.outer_variants(TARGET, k, n_columns):
        tag = f"{k}_{n_columns}{variant.suffix}"
        OUTERS[f"outer_{tag}"] = (
            specs.Outer(two_pieces(k), (Piece(n_columns, 2, n_columns + 2, 1),), n_columns + 1, 1),
            variant,
        )
UNIT = simd(TARGET)
for vectors in range(1, layout.MAX_VECTORS + 1):  # every register tile; blocks of few rows
    heights = layout.tile_heights(UNIT, vectors)
    tile = layout.Tile(LANES, vectors, heights, 2 * heights[0])
    for tail in ((1, LANES), (LANES - 1, LANES + 1))[vectors % 2]:  # columns of the last panel
        width = tile.columns + min(tail, tile.columns)
        even = product_heights(heights[0])
        for k, own in ((3, tile), (16, replace(tile, packs=False, heights=even))):
            PRODUCTS[f"tile_{vectors}_{tail}_{k}"] = (
                specs.Product((Piece(k, 0, k),), width, width),
                layout.Variant("", own, 1),
            )
k, n_columns = 37, 70  # both operands of several pieces; the product may write whole panels
(WIDE, *_) = layout.product_variants(TARGET, k, n_columns)
PRODUCTS["covering"] = (
    specs.Product(
        one_source(k),
        n_columns,
        layout.panels(n_columns, WIDE.tile) * WIDE.tile.columns,
        cover=True,
    ),
    WIDE,
)
for adds in (False, True):  # a deep sum, some rows of the weights at a time
    low = replace(WIDE.tile, depth=16, block=2 * WIDE.tile.heights[0])
    PRODUCTS[f"{'adding' * adds}window"] = (
        specs.Product(one_source(k), n_columns, n_columns + 2, 1, accumulate=adds),
        replace(WIDE, tile=low),
    )
    asking = replace(low, even=True, ahead=4, next_panel=True)
    PRODUCTS[f"{'adding' * adds}window_asking"] = (
        specs.Product(one_source(k), n_columns, n_columns + 2, 1, accumulate=adds),
        replace(WIDE, tile=asking),
    )
OUTERS["outer_pieces"] = (
    specs.Outer(one_source(k), (Piece(30, 1, 33, 1, 1), Piece(40, 2, 40)), n_columns + 9, 5, 3, 4),
    layout.outer_variants(TARGET, k, n_columns)[0],
)
OUTERS["outer_split_rows"] = (
    specs.Outer((Piece(k, 0, k),), (Piece(8, 1, 8),), 8, sums=0),
    layout.outer_variants(TARGET, k, 8)[1],
)
one_more = layout.outer_variants(TARGET, 37, 8)[0].tile.heights[0] + 1  # the first task ends with
OUTERS["outer_split_before_the_rest"] = (  # the only whole tile, the second has what is left
    specs.Outer((Piece(one_more, 0, one_more),), (Piece(8, 1, 8),), 8),
    layout.outer_variants(TARGET, one_more, 8)[-1],
)
for variant in layout.outer_variants(TARGET, 131, 2):  # no operand can be read where it lies
    OUTERS[f"outer_narrow_pieces{variant.suffix}"] = (
        specs.Outer(one_source(131), (Piece(1, 1, 33, 1, 1), Piece(1, 2, 40, 7)), 11, 5, 3, 4),
        variant,
    )
for variant in layout.outer_variants(TARGET, 600, 2):  # both can; more rows than a block
    OUTERS[f"outer_narrow_sums{variant.suffix}"] = (
        specs.Outer((Piece(600, 0, 603, 2),), (Piece(2, 1, 7, 4),), 2, sums=3),
        variant,
    )
for k, n_columns in ((37, 40), (131, 2)):  # both operands are one piece, of rows that are chosen
    OUTERS[f"outer_chosen_{k}_{n_columns}"] = (
        specs.Outer(
            (Piece(k, 0, k + 1, 1, 0),), (Piece(n_columns, 1, n_columns, 0, 1),), n_columns
        ),
        layout.outer_variants(TARGET, k, n_columns)[0],
    )

for tasks in (1, 2):  # a tall result, some of its rows at a time; the last of them are few
    usual = layout.outer_variants(TARGET, 37, 70)[0]
    tall = usual.tile.heights[0]
    low = replace(usual.tile, block=2 * tall, depth=2 * tall, parts=(tasks, 1))
    OUTERS[f"outer_tall_{tasks}"] = (
        specs.Outer(
            one_source(5 * tall + 1), (Piece(30, 1, 33, 1, 1), Piece(40, 2, 40)), 79, 5, 3, 4
        ),
        replace(usual, tile=low),
    )

for tasks in (1, 2):  # panels that take all rows before the next ones do, the last group is short
    usual = layout.outer_variants(TARGET, 37, 70)[0]
    low = replace(usual.tile, vectors=1, block=32, group=2, parts=(1, tasks))
    OUTERS[f"outer_groups_{tasks}"] = (
        specs.Outer(one_source(37), (Piece(6 * LANES, 2, 6 * LANES),), 6 * LANES),
        replace(usual, tile=low),
    )
(few, *_) = layout.outer_variants(TARGET, 131, LANES // 2 + 1)  # whole vectors and what is left
OUTERS["outer_narrow_rest"] = (
    specs.Outer((Piece(2 * LANES + 3, 0, 2 * LANES + 3),), (Piece(LANES, 1, LANES),), LANES),
    replace(few, tile=replace(few.tile, vectors=3)),
)

# Knobs that measuring may choose: of a product any, of a weight gradient all but its block.
DEEP = specs.Product(two_pieces(33), 75, 75)
FREE = {
    "usual": product_knobs(TARGET, 33, 75, "float32"),
    "asking": ProductKnobs(2, 2, 4, even=True, ahead=8, next_panel=True),
    "even": ProductKnobs(1, 3, 12, even=True),
    "next": ProductKnobs(3, 2, 2, next_panel=True),
    "split": ProductKnobs(2, 4, 8, even=True, next_panel=True, split=ALWAYS),
    "packing": ProductKnobs(2, 2, 4),
    "lying": ProductKnobs(2, 2, 4, packs=False),
    "lying_asking": ProductKnobs(2, 4, 8, even=True, ahead=4, next_panel=True, packs=False),
    "lying_split": ProductKnobs(1, 5, 5, packs=False, split=ALWAYS),
}
for tag, knobs in FREE.items():
    (cut, *_) = layout.product_variants(TARGET, 33, 75, chosen=only(knobs))
    PRODUCTS[f"knobs_{tag}"] = (DEEP, cut)
LYING = replace(WIDE, tile=replace(WIDE.tile, packs=False))  # rows are read where they lie
for tag, pieces in {
    "whole": (Piece(17, 0, 19, 1),),
    "chosen": (Piece(16, 0, 16, 0, 0),),
    "pieces": one_source(50),
    "short": one_source(47),  # packed: pieces of 15 columns
    "many": (Piece(16, 0, 16, 0, 0),) * 5,  # packed
}.items():
    wide = sum(piece.width for piece in pieces)
    PRODUCTS[f"lying_{tag}"] = (specs.Product(pieces, 70, 72, 1, accumulate=tag != "whole"), LYING)
GRADIENT = specs.Outer(two_pieces(33), (Piece(75, 2, 77, 1),), 75)
for tag, knobs in {
    "usual": OuterKnobs(2, 4, 32),
    "flat": OuterKnobs(4, 2, 32),
    "asking": OuterKnobs(2, 4, 32, ahead=1),
    "grouped": OuterKnobs(1, 4, 32, group=2),
    "grouped_split": OuterKnobs(1, 4, 32, group=2, split=ALWAYS),
    "split": OuterKnobs(1, 5, 32, split=ALWAYS),
}.items():
    (cut, *_) = layout.outer_variants(TARGET, 33, 75, chosen=only(knobs))
    OUTERS[f"outer_knobs_{tag}"] = (GRADIENT, cut)

SUM = specs.ColumnSum((Piece(20, 0, 22, 2, 0), Piece(3, 1, 3)))
SEGMENTS = specs.SegmentSum(21, 24, 2, 22)
CUT = layout.product_variants(TARGET, 25, 113)[0].tile
NARROW_PACK = specs.Pack(
    shapes=((70, 3), (2, 60)),
    placements=(
        specs.Placement(0, 5, 1, (1, 67), (2, 3)),
        specs.Placement(1, 71, 0, (0, 2), (0, 60), transposed=True),
    ),
    k=131,
    n_columns=2,
)
NARROW_CUT = layout.product_variants(TARGET, 131, 2)[0].tile
PACKS = {
    "pack": (PACK, CUT),
    "pack_whole": (WHOLE, CUT),
    "pack_narrow": (NARROW_PACK, NARROW_CUT),
    "pack_blocks": (BLOCKS, CUT),
}


SHARED_OUT = {  # heights of tiles by the name of a kernel that writes down where they begin
    f"heights_{tall}_{even:d}": (product_heights if even else heights_below)(tall)
    for tall in (12, 9, 6, 4, 2, 1)
    for even in (True, False)
}


def tiles_of(heights: tuple[int, ...], name: str):
    """f(n, out): out[first row] = height of every tile that n rows are cut into."""

    def emit() -> None:
        (n,) = loopnest.scalars(["n"])
        (out,) = loopnest.arrays([("out", (None,), "int64")])
        register_tile.by_height(
            heights, n, lambda height, row: T.buffer_store(out, loopnest.int64(height), [row])
        )

    return loopnest.kernel(name, "product", emit)


BLOCKS_OF_SUMS = ((32, False), (128, False), (33, False), (64, True), (512, True))


def blocks_of_sums(block: int, amx: bool):
    """f(n, out): the first row and the number of rows of every block that n rows are summed in."""
    cut = layout.Tile(LANES, 1, (1,), block, amx=amx)

    def emit() -> None:
        (n,) = loopnest.scalars(["n"])
        (out,) = loopnest.arrays([("out", (None, 2), "int64")])

        def put(b, first, count) -> None:
            for column, value in enumerate((first, count)):
                T.buffer_store(out, value, [b, loopnest.int64(column)])

        register_tile.sum_blocks(cut, n, put)

    return loopnest.kernel(f"blocks_{block}_{amx:d}", "outer", emit)


class Kernels:
    """The kernels of this file by name; asked for one, it compiles all of its kind together."""

    def __init__(self) -> None:
        self._modules: list = []

    def __getitem__(self, name):
        for made, module in self._modules:
            if name in made:
                return module[name]
        made = next(f for f in (make() for make in MAKERS) if name in f)
        mod, unclaimed = schedules.schedule(tvm.IRModule(made), TARGET)
        assert unclaimed == ()
        module = tvm.compile(mod, target=TARGET, tir_pipeline=schedules.pipeline())
        self._modules.append((made, module))
        return module[name]


def all_products():
    return {name: product.product(s, v.tile, name) for name, (s, v) in PRODUCTS.items()}


def all_outers():
    return {name: outer.outer(s, v.tile, name) for name, (s, v) in OUTERS.items()}


def the_others():
    made = {name: pack.pack(s, cut, name) for name, (s, cut) in PACKS.items()}
    for tasks in TASKS[1:]:
        for name, (s, cut) in PACKS.items():
            made[f"{name}_{tasks}"] = pack.pack(s, cut, f"{name}_{tasks}", tasks)
    made |= {f"blocks_{b}_{amx:d}": blocks_of_sums(b, amx) for b, amx in BLOCKS_OF_SUMS}
    made |= {name: tiles_of(heights, name) for name, heights in SHARED_OUT.items()}
    made["column_sum"] = sums.column_sum(SUM, LANES, "column_sum")
    for tasks in TASKS:
        name = f"segment_sum_{tasks}"
        made[name] = sums.segment_sum(SEGMENTS, LANES, name, tasks)
    return made


MAKERS = (the_others, all_outers, all_products)


@pytest.fixture(scope="module")
def kernels():
    return Kernels()


def packed(weights: np.ndarray, tile: layout.Tile) -> np.ndarray:
    """[k, n] as [panels][k][NR], zeros in the last panel's rest; narrow ones as [1][n][k]."""
    k, n = weights.shape
    if tile.narrow:
        whole = np.zeros((1, n, -(-k // LANES) * LANES), "float32")
        whole[0, :, :k] = weights.T
        return whole
    whole = np.zeros((layout.panels(n, tile) * tile.columns, k), "float32")
    whole[:n] = weights.T
    return np.ascontiguousarray(whole.reshape(-1, tile.columns, k).transpose(0, 2, 1))


@pytest.mark.parametrize("name", PRODUCTS)
def test_product(kernels, name):
    spec, variant = PRODUCTS[name]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    heights = range(2 * variant.tile.heights[0]) if name.startswith("tile") else COUNTS
    for n in counts(variant.tile, heights):
        offsets, arrays, left = inputs(rng, spec.pieces, n)
        out, place = result(rng, spec, n)
        want = out.copy()
        want[place] = left @ weights + (out[place] if spec.accumulate else 0)
        *_, got = call(
            kernels[name], n, n, GUARD, *offsets, *arrays, packed(weights, variant.tile), out
        )
        if spec.cover:
            after = place[0], slice(spec.n_columns, None)
            got[after] = want[after]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=f"{n} rows")


@pytest.mark.parametrize("name", SHARED_OUT)
def test_rows_are_shared_out_among_few_tiles_of_about_one_height(kernels, name):
    """Every row is in one tile; with neighbouring heights no tile is there for a few rows."""
    heights = SHARED_OUT[name]
    tall, lower = (*heights, 0)[:2]
    assert lower == tall - 1 or name.endswith("_0")
    for n in (*range(60), 119, 120, 121, 122, 131, 132, 133):
        (out,) = call(kernels[name], n, np.zeros(n + tall, "int64"))
        rows = np.flatnonzero(out).tolist()
        sizes = [int(out[row]) for row in rows]
        assert sizes == sorted(sizes, reverse=True) and set(sizes) <= set(heights)
        assert rows == [sum(sizes[:i]) for i in range(len(rows))]
        assert n <= sum(sizes) <= n + register_tile.spare_rows(heights)
        fewest = -(-n // tall)
        if lower == tall - 1 > 0 and n >= lower * fewest:
            assert len(sizes) == fewest and sum(sizes) == n and set(sizes) <= {tall, lower}
        else:
            assert sizes[: n // tall] == [tall] * (n // tall)


@pytest.mark.parametrize(("block", "amx"), BLOCKS_OF_SUMS)
def test_rows_are_summed_in_blocks_of_about_one_size(kernels, block, amx):
    """As few as there can be with a quarter more rows than a block should have."""
    room = register_tile.room_for_sums(layout.Tile(LANES, 1, (1,), block, amx=amx))
    assert block * 5 / 4 <= room < block * 5 / 4 + (32 if amx else 4)
    for n in (*range(5), block, *(block * q // 4 + d for q in (5, 9, 13, 40) for d in (0, 1))):
        (got,) = call(kernels[f"blocks_{block}_{amx:d}"], n, np.full((64, 2), -1, "int64"))
        made = got[got[:, 0] >= 0]
        firsts, sizes = made.T
        assert [*firsts, n] == [0, *np.cumsum(sizes)] if n else not len(made), n
        assert all(0 < size <= room for size in sizes)
        assert len(made) <= max(-(-(4 * n - block) // (4 * block)), int(n > 0)), n
        if amx:
            assert not (firsts % 32).any()


def test_rows_are_read_where_they_lie():
    """Of a few pieces that are not short nothing is copied; the bits are the same."""
    for name, copies in {
        "knobs_packing": True,
        "knobs_lying": False,
        "lying_whole": False,
        "lying_pieces": False,
        "lying_short": True,
        "lying_many": True,
    }.items():
        spec, variant = PRODUCTS[name]
        text = product.product(spec, variant.tile, "kernel").script()
        assert ("alloc_buffer(" in text) == copies, name  # registers are alloc_local


def test_rows_in_place_ask_for_their_own_weights():
    """Four rows ahead of those that a piece is multiplied with, of the second piece's as well."""
    spec, variant = PRODUCTS["knobs_lying_asking"]
    text = product.product(spec, variant.tile, "kernel").script()
    near = [
        line for line in text.splitlines() if "prefetch" in line and line.endswith(", 0, 3, 1)")
    ]
    rows = [re.search(r"\], (.*), \w+ \* T.int64\(16\)\]", line)[1] for line in near]
    asked = {re.sub(r"v_\d+", "k", row) for row in rows}
    assert asked == {"k + T.int64(4)", f"T.int64({spec.pieces[0].width}) + k + T.int64(4)"}


def test_rows_in_place_give_the_same_bits(kernels):
    spec, variant = PRODUCTS["knobs_packing"]
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    for n in (1, 2, 5, 8, 13):
        offsets, arrays, _ = inputs(rng, spec.pieces, n)
        out, _ = result(rng, spec, n)
        given = n, n, GUARD, *offsets, *arrays, packed(weights, variant.tile), out
        *_, copied = call(kernels["knobs_packing"], *given)
        *_, lying = call(kernels["knobs_lying"], *given)
        np.testing.assert_array_equal(lying, copied)


def test_a_window_asks_for_its_own_rows():
    """Of the weights: those ahead in this panel, and in the next one from its first row on."""
    spec, variant = PRODUCTS["window_asking"]
    text = product.product(spec, variant.tile, "kernel").script()
    asked = [line for line in text.splitlines() if "prefetch" in line]
    near = [re.search(r", (\w+\[T.int64\(0\)\]) \+ \w+ \+ T.int64\(8\)", line) for line in asked]
    (top,) = {found[1] for found in near if found}  # the first row of a window
    far = [line for line in asked if line.endswith(", 0, 2, 1)")]
    assert far and all(f", {top}, (" in line for line in far)


@pytest.mark.parametrize("adds", [1, 0])
@pytest.mark.parametrize("name", OUTERS)
def test_outer(kernels, name, adds):
    """Added to C; or in place of what is there, of which nothing is read."""
    spec, variant = OUTERS[name]
    rng = np.random.default_rng(1)
    for n in sum_counts(variant.tile, COUNTS if adds else COUNTS[1:]):
        both = spec.left + spec.right
        offsets, arrays, operand = inputs(rng, both, n)
        out = rng.standard_normal((spec.row + spec.k + 1, spec.ldc), dtype="float32")
        want = out.copy()
        left, right = operand[:, : spec.k], operand[:, spec.k :]
        columns = slice(spec.column, spec.column + spec.n_columns)
        rows = slice(spec.row, spec.row + spec.k)
        want[rows, columns] = left.T @ right + (out[rows, columns] if adds else 0)
        if not adds:
            out[rows, columns] = np.nan
        sums = []
        if spec.sums is not None:
            sums.append(rng.standard_normal(spec.sums + spec.n_columns + 2, dtype="float32"))
        results = call(kernels[name], n, adds, *offsets, *arrays, out, *sums)
        got = results[len(arrays)]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-4, err_msg=f"{n} rows")
        if sums:
            want = sums[0].copy()
            want[spec.sums : spec.sums + spec.n_columns] += right.sum(0)
            np.testing.assert_allclose(results[-1], want, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("name", PACKS)
def test_pack(kernels, name, tasks):
    """However many tasks share the panels, all are written; some tasks may have none."""
    spec, tile = PACKS[name]
    rng = np.random.default_rng(2)
    parameters = [rng.standard_normal(shape, dtype="float32") for shape in spec.shapes]
    want = packed(assembled(spec, parameters), tile)
    symbol = name if tasks == 1 else f"{name}_{tasks}"
    *_, got = call(kernels[symbol], *parameters, np.full_like(want, np.nan))
    np.testing.assert_array_equal(got, want)


def test_tasks_of_a_pack_share_its_panels():
    """Each is written by one: what the others read of W is not written by anybody."""
    spec, cut = PACKS["pack_blocks"]
    n_panels = layout.panels(spec.n_columns, cut)
    for tasks in (1, 2, 3, n_panels + 2):
        owners = [range(t * n_panels // tasks, (t + 1) * n_panels // tasks) for t in range(tasks)]
        assert sorted(p for own in owners for p in own) == list(range(n_panels))
    assert layout.pack_tasks(4, 256, 256, cut) == min(4, layout.panels(256, cut))
    assert layout.pack_tasks(4, 256, 255, cut) == 1
    assert layout.pack_tasks(64, 1 << 16, 1, cut) == 1
    narrow = replace(cut, vectors=1, narrow=True)
    assert layout.pack_tasks(4, 1 << 16, LANES // 2, narrow) == 1


@pytest.mark.parametrize("n", COUNTS)
def test_column_sum(kernels, n):
    rng = np.random.default_rng(4)
    offsets, arrays, operand = inputs(rng, SUM.pieces, n)
    out = rng.standard_normal(operand.shape[1], dtype="float32")
    *_, got = call(kernels["column_sum"], n, *offsets, *arrays, out)
    np.testing.assert_allclose(got, out + operand.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("n", [0, 1, 5, 40, 41])
def test_segment_sum(kernels, n, tasks):
    rng = np.random.default_rng(5)
    ptr = np.concatenate([[0], np.cumsum(rng.integers(0, 4, n))]).astype("int32")
    edge = rng.integers(0, ROWS, ptr[-1], dtype="int32")
    source = rng.standard_normal((ROWS, SEGMENTS.ld), dtype="float32")
    out = np.full((n + GUARD, 22), np.nan, "float32")
    want = out.copy()
    for u in range(n):
        rows = source[edge[ptr[u] : ptr[u + 1]], 2 : 2 + SEGMENTS.width]
        want[u, : SEGMENTS.width] = rows.sum(0)
    *_, got = call(kernels[f"segment_sum_{tasks}"], n, source, edge, ptr, out)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["product_33_450", "product_131_2", "product_150_5", "window", "addingwindow"]
)
def test_same_rows_same_bits_whatever_shares_the_call(kernels, name):
    """A row's product does not depend on how many rows are multiplied with it."""
    spec, variant = PRODUCTS[name]
    rng = np.random.default_rng(6)
    weights = rng.standard_normal((spec.k, spec.n_columns), dtype="float32")
    weights = packed(weights, variant.tile)
    offsets, arrays, _ = inputs(rng, spec.pieces, 29)
    results = []
    for n in (29, 28, 13, 5, 1):
        out = np.zeros((29, spec.ldc), "float32")
        results.append(call(kernels[name], n, n, 0, *offsets, *arrays, weights, out)[-1][:1])
    assert all(np.array_equal(results[0], r) for r in results)


def test_no_knob_of_a_product_changes_a_bit(kernels):
    """Not even with how many rows; 140 of them are several blocks in each."""
    rng = np.random.default_rng(8)
    weights = rng.standard_normal((DEEP.k, DEEP.n_columns), dtype="float32")
    offsets, arrays, _ = inputs(rng, DEEP.pieces, 140)
    out, found = np.zeros((140, DEEP.ldc), "float32"), {}
    for tag in FREE:
        name = f"knobs_{tag}"
        w = packed(weights, PRODUCTS[name][1].tile)
        for n in (140, 13, 5, 1):
            found[tag, n] = call(kernels[name], n, n, 0, *offsets, *arrays, w, out)[-1][:1]
    first = found["usual", 140]
    assert all(np.array_equal(first, each) for each in found.values())


def test_a_gradient_has_the_same_bits_with_all_knobs_but_its_block(kernels):
    rng = np.random.default_rng(9)
    offsets, arrays, _ = inputs(rng, GRADIENT.left + GRADIENT.right, 140)
    out = np.zeros((GRADIENT.k, GRADIENT.ldc), "float32")
    names = [name for name in OUTERS if name.startswith("outer_knobs_")]
    usual, *others = (call(kernels[n], 140, 0, *offsets, *arrays, out)[-1] for n in names)
    assert len(others) == 5 and usual.any()
    assert all(np.array_equal(usual, other) for other in others)


def test_a_tall_gradient_has_the_same_bits_whatever_rows_of_it_come_first(kernels):
    spec, _ = OUTERS["outer_tall_1"]
    rng = np.random.default_rng(3)
    offsets, arrays, _ = inputs(rng, spec.left + spec.right, 140)
    out = rng.standard_normal((spec.row + spec.k, spec.ldc), dtype="float32")
    sums = rng.standard_normal(spec.sums + spec.n_columns, dtype="float32")
    one, two = (
        call(kernels[f"outer_tall_{n}"], 140, 1, *offsets, *arrays, out, sums) for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("k", [100, 512, 513, 1024, 5000, 40_000])
@pytest.mark.parametrize("l2", ["256K", "512K", "1024K", "2048K"])
def test_the_rows_of_a_gradient_that_are_packed_stay_in_cache(k, l2):
    """And they are enough, however tall it is, that its sums are seldom read anew."""
    cpu = {"mtriple": "x86_64-linux-gnu", "mcpu": "znver3", "model": f"l1=32K l2={l2}"}
    target = make_target({"kind": "llvm", **cpu})
    tile = layout.outer_variants(target, k, 300)[0].tile
    packed = 4 * tile.block * (tile.depth or k)
    assert tile.block >= 64
    assert packed <= packed_bytes(caches(target)) or tile.depth == tile.heights[0]
    assert tile.depth % tile.heights[0] == 0 and tile.depth < k


@pytest.mark.parametrize("size", NARROW[1:])
def test_same_gradients_with_any_number_of_threads(kernels, size):
    """Threads split a narrow weight gradient, never its sums over rows."""
    rng = np.random.default_rng(7)
    name = "outer_{}_{}".format(*size)
    spec, variant = OUTERS[name]
    assert variant.tile.narrow
    offsets, arrays, _ = inputs(rng, spec.left + spec.right, 140)
    out = rng.standard_normal((spec.k, spec.ldc), dtype="float32")
    one, two = (call(kernels[n], 140, 1, *offsets, *arrays, out)[-1] for n in (name, name + SPLIT))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((), "without pieces"),
        ((Piece(5, 0, 4),), "do not lie in source 0, which has 4 columns"),
        ((Piece(2, 0, 4, 3),), "piece 0: columns 3:5 do not lie in source 0, which has 4 columns"),
        ((Piece(2, 0, 4, -1),), "piece 0: columns -1:1 do not lie in source 0"),
        ((Piece(2, 0, 4), Piece(0, 1, 4)), "piece 1: columns 0:0 do not lie in source 1"),
        (
            (Piece(2, 0, 3), Piece(2, 2, 4), Piece(2, 2, 5)),
            "piece 2: source 2 has 5 columns here and 4 in another",
        ),
    ],
)
def test_bad_pieces_are_refused(pieces, message):
    with pytest.raises(ShapeError, match=message):
        operands(pieces)


def test_results_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="columns 1:9 do not lie in a result of 8 columns"):
        product.product(specs.Product((Piece(4, 0, 4),), 8, 8, 1), CUT, "f")
    with pytest.raises(ShapeError, match="columns -1:7 do not lie"):
        product.product(specs.Product((Piece(4, 0, 4),), 8, 8, -1), CUT, "f")
    right = (Piece(8, 1, 8),)
    for column, place in ((1, "columns 1:9"), (-1, "columns -1:7")):
        with pytest.raises(ShapeError, match=f"{place} do not lie in a result of 8 columns"):
            outer.outer(specs.Outer((Piece(4, 0, 4),), right, 8, column), CUT, "f")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            specs.Placement(0, 0, 0, (0, 3), (0, 2)),
            r"\(0, 3\) x \(0, 2\) is no rectangle of parameter 0, which is 2 x 3$",
        ),
        (
            specs.Placement(1, 0, 0, (0, 2), (2, 2)),
            r"\(0, 2\) x \(2, 2\) is no rectangle of parameter 1, which is 3 x 2$",
        ),
        (specs.Placement(0, 3, 0, (0, 2), (0, 2)), "rows end at 5 of 4"),
        (specs.Placement(0, -1, 0, (0, 2), (0, 2)), "rows end at 1 of 4"),
        (specs.Placement(0, 0, 4, (0, 2), (0, 2)), "columns end at 6 of 5"),
        (specs.Placement(0, 0, -1, (0, 2), (0, 2)), "columns end at 1 of 5"),
    ],
)
def test_placements_that_do_not_fit_are_refused(place, message):
    """The second of two."""
    good = specs.Placement(0, 2, 2, (0, 2), (0, 2))
    with pytest.raises(ShapeError, match=f"^placement 1: .*{message}"):
        pack.pack(specs.Pack(((2, 3), (3, 2)), (good, place), 4, 5), CUT, "f")


def test_overlapping_placements_are_refused():
    places = [specs.Placement(0, row, 0, (0, 2), (0, 2)) for row in (2, 0, 1)]
    words = r"^placement 2 covers \(1, 3, 0, 2\), which overlaps \(2, 4, 0, 2\)$"
    with pytest.raises(ShapeError, match=words):
        pack.pack(specs.Pack(((2, 2),), places, 4, 4), CUT, "f")


def refused(*places):
    try:
        pack.check_pack(specs.Pack(((2, 3),), places, 4, 5))
    except ShapeError:
        return True
    return False


def test_every_rectangle_is_refused_that_lies_elsewhere_or_is_none():
    """Of a parameter of 2 x 3, at every place of an operand of 4 x 5."""
    borders = [*product_of(range(-1, 5), repeat=2)]
    for rows, columns in product_of(borders, borders):
        is_one = 0 <= rows[0] < rows[1] <= 2 and 0 <= columns[0] < columns[1] <= 3
        assert refused(specs.Placement(0, 0, 0, rows, columns)) == (not is_one)
    for row, column, (height, width) in product_of(range(-1, 5), range(-1, 6), [(1, 1), (2, 3)]):
        lies = 0 <= row <= 4 - height and 0 <= column <= 5 - width
        assert refused(specs.Placement(0, row, column, (0, height), (0, width))) == (not lies)


def test_every_two_rectangles_are_refused_that_meet():
    kinds = [((0, 2), (0, 3), False), ((0, 1), (1, 3), False), ((0, 1), (1, 3), True)]
    places = [
        place
        for rows, columns, turned in kinds
        for row, column in product_of(range(4), range(5))
        if not refused(place := specs.Placement(0, row, column, rows, columns, turned))
    ]
    assert len({place.transposed for place in places}) == 2
    for one, other in product_of(places, places):
        covered = np.zeros((4, 5), "int32")
        for each in (one, other):
            height, width = each.shape
            covered[each.row : each.row + height, each.column : each.column + width] += 1
        assert refused(one, other) == (covered.max() > 1)
