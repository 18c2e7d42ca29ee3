"""Matrix products over rows that are gathered as they are read: specs to kernels without schedule.

A kernel takes whole buffers and integer offsets, never views. Rows go through all panels of the
weights a block at a time, packed or where they lie, and panels of columns of the result are
computed in register tiles. The number of rows is symbolic, and exactly those rows are written: as
many of the tallest tile as fit, then the rest with smaller ones, so that one row does not pay for
six. Products with few columns have tiles of another kind (`narrow.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tvm import tirx

from ...lowering.specs import Product, operands
from ...target_rules import Tile, panels, weights_shape
from ..loopnest import (
    LINE,
    Buffer,
    Expr,
    either,
    hold,
    int64,
    kernel,
    loop,
    part,
    prefetch_read,
)
from . import amx
from .bfloat16 import WORD, column_packer, linked, words
from .narrow import dot_tiles
from .on_amx import product_blocks
from .operands import (
    Bound,
    Shapes,
    Stretch,
    TileRows,
    bind,
    copied_rows,
    is_readable_in_place,
    packer,
    rows_in_place,
    window_packer,
)
from .register_tile import (
    Target,
    accumulate_words,
    add_step,
    by_height,
    check_columns,
    each_block,
    each_panel,
    no_sums,
    prefetch_tile,
    spare_rows,
    store_tile,
)

WINDOW_AHEAD = 8  # rows of the weights, which come from memory


def product(spec: Product, cut: Tile, name: str) -> tirx.PrimFunc:
    """f(n, turn, start_c, starts..., index starts..., sources..., indices..., W, C): `operands`.

    `turn` is any number: where it is odd, panels are taken from last to first.

    Raises:
        ShapeError: columns outside of C.
    """
    covered = panels(spec.n_columns, cut) * cut.columns if spec.cover else spec.n_columns
    check_columns(spec.column, covered, spec.ldc)
    needs, bf16 = operands(spec.pieces), spec.precision == "bf16"
    depth, dtype = (words(spec.k), WORD) if bf16 else (spec.k, "float32")

    def emit() -> None:
        shape = weights_shape(depth, spec.n_columns, cut)
        last: Shapes = [("W", shape, dtype), ("C", (None, spec.ldc), "float32")]
        (n, turn, start), bound, (weights, out) = bind(["n", "turn", "start_c"], needs, last)
        with loop(cut.tasks, "task") as task:
            rows = row_part(task // cut.parts[1], cut, n)
            to = Target(
                out=out,
                cut=cut,
                n_columns=spec.n_columns,
                column=spec.column,
                cover=spec.cover,
                adds=spec.accumulate,
                panel=int64(0),
                start=start,
                n_rows=None,
                turn=turn,
            )
            if cut.narrow:
                dot_tiles(spec.pieces, bound, rows, weights, to)
            elif cut.depth:
                window_tiles(spec, bound, task, rows, weights, to)
            elif cut.amx:
                product_blocks(spec, bound, task, rows, weights, to)
            else:
                block_tiles(spec, bound, task, rows, weights, to)

    made = kernel(name, "product", emit)
    if cut.amx:
        return amx.linked(made)
    return linked(made) if bf16 else made


def block_tiles(
    spec: Product, bound: Bound, task: Expr, rows: tuple[Expr, Expr], weights: Buffer, to: Target
) -> None:
    """A task's rows (first, count), a block of them at a time, times its panels of the weights."""
    cut, depth = to.cut, int(weights.shape[1])
    some = part(task % cut.parts[1], cut.parts[1], panels(spec.n_columns, cut))
    rows_of = block_reader(spec, bound, cut, depth)

    def block(row: Expr, n_rows: Expr) -> None:
        of_tile = rows_of(row, n_rows)

        def panel(at: Target) -> None:
            tile = partial(product_tile, (int64(0), int64(depth)), cut.ahead, of_tile, weights, at)
            by_height(cut.heights, n_rows, tile)

        each_panel(some, replace(to, start=to.start + row, n_rows=n_rows), panel)

    each_block(cut, rows, block)


def block_reader(
    spec: Product, bound: Bound, cut: Tile, depth: int
) -> Callable[[Expr, Expr], TileRows]:
    """What gives a block's rows (first, count) to its tiles, packed if need be.

    bfloat16 operands are rounded as they are packed.
    """
    if spec.precision == "bf16":
        pack = column_packer(spec.pieces, bound, cut.block)
    elif cut.packs or not is_readable_in_place(spec.pieces):
        pack = packer(spec.pieces, bound, cut.block, cut.lanes, spare_rows(cut.heights))
    else:
        return partial(rows_in_place, spec.pieces, bound)
    return lambda first, count: copied_rows(pack(first, count), int64(depth))


def window_tiles(
    spec: Product, bound: Bound, task: Expr, rows: tuple[Expr, Expr], weights: Buffer, to: Target
) -> None:
    """`block_tiles` of a deep product: `depth` rows of the weights at a time, in their order.

    So a block of rows stays in cache, and all weights are not read anew for every few rows.
    """
    cut = to.cut
    some = part(task % cut.parts[1], cut.parts[1], panels(spec.n_columns, cut))
    spare = spare_rows(cut.heights)
    pack = window_packer(spec.pieces, bound, cut.block, cut.depth, cut.lanes, spare)
    ahead = max(cut.ahead, WINDOW_AHEAD)

    def block(row: Expr, n_rows: Expr) -> None:
        with loop(-(-spec.k // cut.depth)) as w:
            top = hold(w * cut.depth)
            depth = hold(tirx.min(int64(cut.depth), spec.k - top))
            of_tile = copied_rows(pack(row, n_rows, top, depth), depth)

            def panel(at: Target) -> None:
                tile = partial(product_tile, (top, depth), ahead, of_tile, weights, at)
                by_height(cut.heights, n_rows, tile)

            adds = True if to.adds else w > 0
            at = replace(to, start=to.start + row, n_rows=n_rows, adds=adds)
            each_panel(some, at, panel)

    each_block(cut, rows, block)


def row_part(index: Expr, cut: Tile, n: Expr) -> tuple[Expr, Expr]:
    """(first row, rows) of one of the row parts: whole tiles, but for the last."""
    if cut.parts[0] == 1:
        return int64(0), n
    tall = cut.heights[0]
    each = hold(tirx.ceildiv(tirx.ceildiv(n, tall), cut.parts[0]) * tall)
    first = hold(index * each)
    return first, hold(tirx.max(tirx.min(n - first, each), int64(0)))


def product_tile(
    window: tuple[Expr, Expr],
    ahead: int,
    of_tile: TileRows,
    weights: Buffer,
    to: Target,
    height: int,
    row: Expr,
) -> None:
    """`height` rows from `row` of a block on, times the rows (first, count) of one panel.

    It asks for weights while it adds: rows `ahead`, unless it is a single row, which is bound by
    reading weights: asking would only take the place of it. The first tiles of the two tallest
    heights ask for the next panel as well, if that is wanted, a line each step.
    """
    cut, (top, depth) = to.cut, window
    lines = -(-cut.columns // LINE)

    def tile(next_panel: bool) -> None:
        def before(k: Expr) -> None:
            if ahead and height > 1:
                with loop(lines, "vector") as v:
                    prefetch_read(weights[to.panel, top + k + ahead, v * LINE])
            if next_panel:
                last = int64(panels(to.n_columns, cut) - 1)
                following = tirx.max(tirx.min(to.panel + 1 - to.turn % 2 * 2, last), int64(0))
                line = (row // height) * depth + k
                prefetch_read(weights[following, top, line * LINE], far=True)

        prefetch_tile(to, height, row)
        stretches = of_tile(height, row)
        if weights.dtype == WORD:
            (whole,) = stretches
            acc = accumulate_words(
                height,
                cut.columns,
                depth,
                lambda p, r: whole.load(r, p),
                lambda p, j: weights[to.panel, p, j],
                before,
            )
        else:
            acc = no_sums(height, cut.columns, cut.lanes)
            for stretch in stretches:
                with loop(stretch.width) as k:
                    before(stretch.first + k)
                    add_step(acc, cut.lanes, partial(product_term, stretch, weights, to, top, k))
        store_tile(to, height, row, acc)

    if cut.next_panel and height in cut.heights[:2] and height > 1:
        either(row < lines * height, lambda: tile(True), lambda: tile(False))
    else:
        tile(False)


def product_term(
    stretch: Stretch, weights: Buffer, to: Target, top: Expr, k: Expr, r: Expr, j: Expr
) -> Expr:
    """What column k of a stretch adds to element [r, j] of a tile."""
    return stretch.load(r, k) * weights[to.panel, top + stretch.first + k, j]
