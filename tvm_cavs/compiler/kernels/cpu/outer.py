"""Weight gradients: sums over rows of outer products, as one blocked product.

Rows are taken a block at a time; each panel of the right operand is packed when its turn comes,
and every tile of the result then takes the block's sum. Threads split the result, never the rows,
so the order of additions, and with it every bit of a gradient, is the same for any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.specs import Outer, operands
from ...target_rules import Tile, panels
from ..loopnest import (
    LINE,
    Buffer,
    Expr,
    hold,
    int64,
    kernel,
    loop,
    part,
    prefetch,
    scratch,
    tile,
    vectors,
    zero,
)
from . import amx
from .bfloat16 import WORD, by_pair, linked, row_packer, span, strips, word, words
from .narrow import column_tiles
from .on_amx import outer_blocks
from .operands import Bound, Load, Shapes, bind, packer, reader, window_packer
from .register_tile import (
    TURN,
    Target,
    Term,
    accumulate,
    accumulate_words,
    by_panel,
    check_columns,
    prefetch_tile,
    room_for_sums,
    store_tile,
    sum_blocks,
)

Sums = tuple[Buffer, int, Expr]  # (c, its first column, whether this task adds to it)
Pack = Callable[[Expr, Expr], Load]


def outer(spec: Outer, cut: Tile, name: str) -> tirx.PrimFunc:
    """f(n, adds, starts..., index starts..., sources..., indices..., C[, c]), see `operands`.

    With adds = 0 what is in C is replaced, not added to; c is always added to.

    Raises:
        ShapeError: columns outside of C.
    """
    check_columns(spec.column, spec.n_columns, spec.ldc)
    n_strips = panels(spec.k, cut) if cut.narrow else -(-spec.k // cut.heights[0])

    def emit() -> None:
        last: Shapes = [("C", (None, spec.ldc), "float32")]
        last += [] if spec.sums is None else [("c", (None,), "float32")]
        (n, adds), bound, outs = bind(["n", "adds"], operands(spec.left + spec.right), last)
        with loop(cut.tasks, "task") as task:
            strips = part(task // cut.parts[1], cut.parts[0], n_strips)
            sums = None if spec.sums is None else (outs[1], spec.sums, strips[0] == 0)
            to = Target(
                out=outs[0],
                cut=cut,
                n_columns=spec.n_columns,
                column=spec.column,
                cover=False,
                adds=adds > 0,
                panel=int64(0),
                start=int64(spec.row),
                n_rows=None,
            )
            if cut.narrow:
                narrow_tiles(spec, bound, n, strips, sums, to)
            elif cut.amx:
                amx_tiles(spec, bound, n, task, strips, sums, to)
            elif cut.depth:
                deep_tiles(spec, bound, n, task, strips, sums, to)
            else:
                panel_tiles(spec, packers(spec, cut, bound), n, task, strips, sums, to)

    made = kernel(name, "outer", emit)
    if cut.amx:
        return amx.linked(made)
    return linked(made) if spec.precision == "bf16" else made


def deep_tiles(
    spec: Outer,
    bound: Bound,
    n: Expr,
    task: Expr,
    strips: tuple[Expr, Expr],
    sums: Sums | None,
    to: Target,
) -> None:
    """`panel_tiles` of a tall C: `depth` of its rows at a time take the sums over all rows of A.

    So a block of as many columns of A stays in cache, however many there are, and so do those rows
    of C from one block to the next.
    """
    cut, tall = to.cut, to.cut.heights[0]
    most = room_for_sums(cut)
    pack = window_packer(spec.left, bound, most, cut.depth, cut.lanes, 0)
    pack_right, right = right_packer(spec, cut, bound), scratch([most, cut.columns])
    (first, count), each = strips, cut.depth // tall
    with loop(tirx.ceildiv(count, int64(each))) as s:
        mine = hold(first + s * each), hold(tirx.min(count - s * each, int64(each)))
        top = hold(mine[0] * tall)
        width = hold(tirx.min(int64(cut.depth), spec.k - top))

        def pack_left(row: Expr, rows: Expr, top: Expr = top, width: Expr = width) -> Load:
            return partial(from_column, pack(row, rows, top, width), top)

        own = None if sums is None else (*sums[:2], tirx.all(sums[2], s == 0))
        panel_tiles(spec, (pack_left, pack_right, right), n, task, mine, own, to)


def from_column(load: Load, top: Expr, i: Expr, k: Expr) -> Expr:
    """Column k of A, of which those from `top` on are packed."""
    return load(i, k - top)


def panel_tiles(
    spec: Outer,
    packs: tuple[Pack, Pack, Buffer],
    n: Expr,
    task: Expr,
    strips: tuple[Expr, Expr],
    sums: Sums | None,
    to: Target,
) -> None:
    """Strips of C, in a task's panels, take the sums over all rows, a block at a time.

    packs: as `packers` has it.
    """
    cut, (pack_left, pack_right, right) = to.cut, packs
    begin, some = part(task % cut.parts[1], cut.parts[1], panels(spec.n_columns, cut))

    def blocks(begin: Expr, some: Expr) -> None:
        def block(b: Expr, row: Expr, rows: Expr) -> None:
            load_left, load_right = pack_left(row, rows), pack_right(row, rows)
            with loop(some) as p:
                panel = hold(begin + p)
                pack_panel(spec, cut, panel, load_right, rows, right, sums)
                later = replace(to, panel=panel, adds=tirx.any(to.adds, b > 0))
                outer_tiles(spec.k, strips, rows, load_left, right, later)

        sum_blocks(cut, n, block)

    if not cut.group:
        blocks(begin, some)
        return
    with loop(tirx.ceildiv(some, int64(cut.group))) as g:
        first = hold(begin + g * cut.group)
        blocks(first, hold(tirx.min(int64(cut.group), some - g * cut.group)))


def amx_tiles(
    spec: Outer,
    bound: Bound,
    n: Expr,
    task: Expr,
    strips: tuple[Expr, Expr],
    sums: Sums | None,
    to: Target,
) -> None:
    """`panel_tiles` by registers of AMX."""
    cut = to.cut
    some = part(task % cut.parts[1], cut.parts[1], panels(spec.n_columns, cut))
    pack_right = right_packer(spec, cut, bound)
    right = scratch([amx.padded(words(room_for_sums(cut))), cut.columns], dtype=WORD)

    def packing(row: Expr, rows: Expr) -> Callable[[Expr], None]:
        load = pack_right(row, rows)
        return lambda panel: pack_panel(spec, cut, panel, load, rows, right, sums)

    outer_blocks(spec, bound, n, strips, some, right, packing, to)


def narrow_tiles(
    spec: Outer, bound: Bound, n: Expr, strips: tuple[Expr, Expr], sums: Sums | None, to: Target
) -> None:
    """`panel_tiles` of few columns; an operand of one piece in row order is read where it lies."""
    cut = to.cut
    pack_left, pack_right = (
        reader(pieces, bound) or packer(pieces, bound, cut.block, cut.lanes)
        for pieces in (spec.left, spec.right)
    )
    with loop(tirx.ceildiv(n, cut.block)) as b:
        row = hold(b * cut.block)
        rows = hold(tirx.min(int64(cut.block), n - row))
        left, right = pack_left(row, rows), pack_right(row, rows)
        later = replace(to, adds=tirx.any(to.adds, b > 0))
        column_tiles(spec.k, strips, rows, left, right, later)
        if sums is not None:
            width = to.n_columns
            total = accumulate(1, width, cut.lanes, rows, lambda i: lambda _, j: right(i, j))
            add_sums(sums, width, cut, to.panel, total)


def packers(spec: Outer, cut: Tile, bound: Bound) -> tuple[Pack, Pack, Buffer]:
    """What packs a block of rows of A and of B, and room for a panel of B."""
    most = room_for_sums(cut)
    if spec.precision == "bf16":
        pack_left = row_packer(spec.left, bound, most)
        right = scratch([words(most), cut.columns], dtype=WORD)
    else:
        pack_left = packer(spec.left, bound, most, cut.lanes)
        right = scratch([most, cut.columns])
    return pack_left, right_packer(spec, cut, bound), right


def right_packer(spec: Outer, cut: Tile, bound: Bound) -> Pack:
    """What gives a block of rows of B: as they lie, if they can be, since panels are packed."""
    return reader(spec.right, bound) or packer(spec.right, bound, room_for_sums(cut), cut.lanes)


def pack_panel(
    spec: Outer, cut: Tile, panel: Expr, load: Load, rows: Expr, to: Buffer, sums: Sums | None
) -> None:
    """to[i, j] = B(i, panel * NR + j), on the last panel only real columns; c takes their sums."""
    n_panels = panels(spec.n_columns, cut)
    last = spec.n_columns - (n_panels - 1) * cut.columns
    copy = round_columns if to.dtype == WORD else copy_columns

    def columns(width: int) -> None:
        copy(width, cut, panel, load, rows, to, sums)

    by_panel(panel, n_panels, cut.columns, last, columns)


def copy_columns(
    width: int, cut: Tile, panel: Expr, load: Load, rows: Expr, to: Buffer, sums: Sums | None
) -> None:
    """The first `width` columns of a panel."""

    def move(i: Expr) -> None:
        def put(_: Expr, j: Expr) -> None:
            T.buffer_store(to, load(i, panel * cut.columns + j), [i, j])

        clear_tail(width, cut, i, to)
        tile(1, width, cut.lanes, put)

    if sums is None:
        with loop(rows) as i:
            move(i)
    else:
        total = accumulate(1, width, cut.lanes, rows, lambda i: lambda _, j: to[i, j], move)
        add_sums(sums, width, cut, panel, total)


def clear_tail(width: int, cut: Tile, i: Expr, to: Buffer) -> None:
    """Zeros in the vectors of row i that `width` columns do not fill: all are multiplied.

    They are stored before the columns are, whole vectors at once.
    """
    first = width // cut.lanes * cut.lanes
    if width < cut.columns:
        vectors(
            cut.columns - first, cut.lanes, lambda j: T.buffer_store(to, zero(), [i, j + first])
        )


def round_columns(
    width: int, cut: Tile, panel: Expr, load: Load, rows: Expr, to: Buffer, sums: Sums | None
) -> None:
    """The first `width` columns of a panel in words of two rows; c takes what was not rounded."""
    first = panel * cut.columns

    def put_rows(p: Expr, *pair: Expr) -> None:
        def put(j: Expr, lanes: int) -> None:
            values = (load(i, span(first + j, lanes)) for i in pair)
            T.buffer_store(to, word(*values, lanes=lanes), [p, span(j, lanes)])

        strips(width, put)

    by_pair(rows, put_rows)
    if sums is not None:
        total = accumulate(1, width, cut.lanes, rows, lambda i: lambda _, j: load(i, first + j))
        add_sums(sums, width, cut, panel, total)


def add_sums(sums: Sums, width: int, cut: Tile, panel: Expr, total: Buffer) -> None:
    """c[first + panel * NR + j] += total[j]."""
    out, first, condition = sums

    def add(_: Expr, j: Expr) -> None:
        at = panel * cut.columns + j + first
        T.buffer_store(out, out[at] + total[0, j], [at])

    with T.If(condition), T.Then():
        tile(1, width, cut.lanes, add)


def outer_tiles(
    k_size: int, strips: tuple[Expr, Expr], rows: Expr, left: Load, right: Buffer, to: Target
) -> None:
    """Tiles of one panel of C, as tall as the register tile, take the sum over a block of rows."""
    tall = to.cut.heights[0]
    full, rest = divmod(k_size, tall)
    begin, count = strips
    if full:
        with loop(tirx.min(count, int64(full) - begin)) as s:
            outer_tile(tall, T.bind((begin + s) * tall), rows, left, right, to)
    if rest:
        with T.If(begin + count > full), T.Then():
            outer_tile(rest, int64(full * tall), rows, left, right, to)


def outer_tile(height: int, first: Expr, rows: Expr, left: Load, right: Buffer, to: Target) -> None:
    """Rows `first` to `first + height` of C += the sum over a block of rows."""

    def step(i: Expr) -> Term:
        return lambda r, j: left(i, first + r) * right[i, j]

    if not to.cut.ahead:
        prefetch_tile(to, height, first)
    if right.dtype == WORD:
        acc = accumulate_words(
            height,
            to.cut.columns,
            words(rows),
            lambda p, r: left(p, first + r),
            lambda p, j: right[p, j],
        )
    else:
        asks = partial(ask_for_next, to, height, first, rows) if to.cut.ahead else None
        width, lanes = to.cut.columns, to.cut.lanes
        acc = accumulate(height, width, lanes, rows, step, each_turn=asks)
    store_tile(to, height, first, acc)


def ask_for_next(to: Target, height: int, first: Expr, rows: Expr, turn: Expr) -> None:
    """Asks for the part of C that the next tile is written to, some lines of it every turn.

    All at once, they would take every buffer that the processor has for lines on their way.
    """
    in_row = -(-to.cut.columns // LINE)
    n_lines = height * in_row
    each = tirx.ceildiv(int64(n_lines), tirx.max(rows // TURN, int64(1)))
    with loop(each) as i:
        line = tirx.min(turn * each + i, int64(n_lines - 1))
        at = to.at(first + height + line // in_row, line % in_row * LINE)
        prefetch(to.out[tuple(at)])
