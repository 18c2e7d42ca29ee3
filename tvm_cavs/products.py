"""Matrix products over rows that are gathered as they are read: specs to kernels without a schedule.

Both kernels take whole buffers and integer offsets, never views. Accumulators are a register tile
over a panel of columns; rows are packed a block at a time; the number of rows is symbolic, and exactly
those rows are written: a product takes as many of its tallest register tile as fit, then the rest with
smaller ones, so that one row does not pay for six.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from schedules.layout import Tile, panels

from .errors import ShapeError
from .loopnest import (
    Buffer,
    Expr,
    either,
    int64,
    kernel,
    loop,
    part,
    prefetch,
    scratch,
    tile,
    zero,
)
from .operands import Load, Piece, bind, operands, packer


@dataclass(frozen=True)
class Product:
    """C[start_c + i, column + j] = sum_k A(i, k) * W[k, j] for i < n, or += with `accumulate`.

    A is the pieces side by side, W float32[panels, K, NR] packed, C float32[rows, ldc]. Rows from
    `start_c + n` on are never written; columns from `column + n_columns` on only with `cover`, which
    says that the whole last panel fits and may be written.
    """

    pieces: tuple[Piece, ...]
    n_columns: int
    ldc: int
    column: int = 0
    cover: bool = False
    accumulate: bool = False

    @property
    def k(self) -> int:
        """Columns of A."""
        return sum(piece.width for piece in self.pieces)


@dataclass(frozen=True)
class Outer:
    """C[k, column + j] += sum_i A(i, k) * B(i, j) over i < n: the gradient of a weight.

    `left` and `right` are the pieces of A and B, C float32[K, ldc]. With `sums` also
    c[j] += sum_i B(i, j), the gradient of a bias, in the same pass over B.
    """

    left: tuple[Piece, ...]
    right: tuple[Piece, ...]
    ldc: int
    column: int = 0
    sums: bool = False

    @property
    def k(self) -> int:
        """Columns of A, rows of C."""
        return sum(piece.width for piece in self.left)

    @property
    def n_columns(self) -> int:
        """Columns of B."""
        return sum(piece.width for piece in self.right)


def product(spec: Product, cut: Tile, name: str) -> tirx.PrimFunc:
    """f(n, start_c, starts..., index starts..., sources..., indices..., W, C), see `operands`.

    Raises:
        ShapeError: columns outside of C.
    """
    n_panels = panels(spec.n_columns, cut)
    check_columns(spec.column, n_panels * cut.columns if spec.cover else spec.n_columns, spec.ldc)
    needs = operands(spec.pieces)

    def emit() -> None:
        last = [
            ("W", (n_panels, spec.k, cut.columns), "float32"),
            ("C", (None, spec.ldc), "float32"),
        ]
        (n, start), bound, (weights, out) = bind(["n", "start_c"], needs, last)
        with loop(cut.tasks, "task") as task:
            first, count = row_part(task // cut.parts[1], cut, n)
            begin, some = part(task % cut.parts[1], cut.parts[1], n_panels)
            pack = packer(spec.pieces, bound, cut.block, cut.lanes)
            with loop(tirx.ceildiv(count, cut.block)) as b:
                row = T.bind(first + b * cut.block)
                rows = T.bind(tirx.min(int64(cut.block), first + count - row))
                load = pack(row, rows)
                with loop(some) as p:
                    panel = T.bind(begin + p)
                    store = tile_store(spec, cut, out, (start + row, rows), panel)
                    touch = tile_touch(spec, cut, out, start + row, panel)
                    product_tiles(spec.k, cut, rows, panel, load, weights, store, touch)

    return kernel(name, "product", emit)


def row_part(index: Expr, cut: Tile, n: Expr) -> tuple[Expr, Expr]:
    """(first row, rows) of one of the row parts: whole tiles, but for the last."""
    if cut.parts[0] == 1:
        return int64(0), n
    tall = cut.heights[0]
    each = T.bind(tirx.ceildiv(tirx.ceildiv(n, tall), cut.parts[0]) * tall)
    first = T.bind(index * each)
    return first, T.bind(tirx.max(tirx.min(n - first, each), int64(0)))


Store = Callable[[int, Expr, Buffer], None]
Touch = Callable[[int, Expr], None]


def product_tiles(
    k_size: int, cut: Tile, rows: Expr, panel: Expr, load: Load, weights: Buffer, store: Store, touch: Touch
) -> None:
    """All rows of a block times one panel: as many of each height as fit, tallest first.

    Rows left over that the next height could not take at once make this height's last tile, which then
    computes rows that nobody stores.
    """
    done, rest = int64(0), rows
    for height, lower in zip(cut.heights, (*cut.heights[1:], 0), strict=True):
        n_tiles = T.bind((rest + (height - 1 - lower)) // height) if height > 1 else rest
        with loop(n_tiles) as t:
            first = T.bind(done + t * height)

            def step(k: Expr, first: Expr = first) -> Callable[[Expr, Expr], Expr]:
                return lambda r, j: load(first + r, k) * weights[panel, k, j]

            touch(height, first)
            acc = accumulate(height, cut.columns, cut.lanes, int64(k_size), step)
            store(height, first, acc)
        if height > 1:
            done = T.bind(done + n_tiles * height)
            rest = T.bind(tirx.max(rest - n_tiles * height, int64(0)))


def accumulate(
    height: int,
    width: int,
    lanes: int,
    n_steps: Expr,
    step: Callable[[Expr], Callable[[Expr, Expr], Expr]],
    before: Callable[[Expr], None] | None = None,
) -> Buffer:
    """A register tile holding the sum of step(k)(r, j) over k < n_steps; `before(k)` runs first."""
    acc = scratch([height, width], "local")
    tile(height, width, lanes, lambda r, j: T.buffer_store(acc, zero(), [r, j]))
    with loop(n_steps) as k:
        if before is not None:
            before(k)
        term = step(k)
        tile(height, width, lanes, lambda r, j: T.buffer_store(acc, acc[r, j] + term(r, j), [r, j]))
    return acc


def tile_touch(
    spec: Product | Outer, cut: Tile, out: Buffer, start: Expr, panel: Expr
) -> Touch:
    """Prefetches the part of C that a register tile will be written to, while it is computed."""

    def touch(height: int, row: Expr) -> None:
        line = 16  # float32 of a cache line
        with loop(height, "row") as r, loop(-(-cut.columns // line), "vector") as v:
            prefetch(out[start + row + r, panel * cut.columns + v * line + spec.column])

    return touch


def tile_store(
    spec: Product | Outer, cut: Tile, out: Buffer, place: tuple[Expr, Expr], panel: Expr
) -> Store:
    """Writes register tiles to one panel of C: real rows only, on the last panel real columns only.

    `place` is (row of C of row 0, rows that are real).
    """
    adds = isinstance(spec, Outer) or spec.accumulate
    covers = isinstance(spec, Product) and spec.cover
    n_panels = panels(spec.n_columns, cut)
    last = cut.columns if covers else spec.n_columns - (n_panels - 1) * cut.columns
    start, n_rows = place

    def columns(width: int, height: int, row: Expr, acc: Buffer) -> None:
        def put(r: Expr, j: Expr) -> None:
            at = [start + row + r, panel * cut.columns + j + spec.column]
            T.buffer_store(out, out[tuple(at)] + acc[r, j] if adds else acc[r, j], at)

        guard = None if height == 1 or isinstance(spec, Outer) else lambda r: row + r < n_rows
        tile(height, width, cut.lanes, put, guard)

    def store(height: int, row: Expr, acc: Buffer) -> None:
        if n_panels == 1 or last == cut.columns:
            columns(last, height, row, acc)
        else:
            either(
                panel < n_panels - 1,
                lambda: columns(cut.columns, height, row, acc),
                lambda: columns(last, height, row, acc),
            )

    return store


def outer(spec: Outer, cut: Tile, name: str) -> tirx.PrimFunc:
    """f(n, starts..., index starts..., sources..., indices..., C[, c]), see `operands` of left + right.

    Rows are taken a block at a time: A's block is packed in strips as tall as the register tile, each
    panel of B's is packed when its turn comes, and every tile of C then takes the block's sum.

    Raises:
        ShapeError: columns outside of C.
    """
    check_columns(spec.column, spec.n_columns, spec.ldc)
    n_panels = panels(spec.n_columns, cut)
    tall = cut.heights[0]
    n_strips = -(-spec.k // tall)

    def emit() -> None:
        last = [("C", (spec.k, spec.ldc), "float32")]
        last += [("c", (spec.n_columns,), "float32")] if spec.sums else []
        (n,), bound, outs = bind(["n"], operands(spec.left + spec.right), last)
        with loop(cut.tasks, "task") as task:
            strip, strips = part(task // cut.parts[1], cut.parts[0], n_strips)
            begin, some = part(task % cut.parts[1], cut.parts[1], n_panels)
            pack_left = packer(spec.left, bound, cut.block, cut.lanes)
            pack_right = packer(spec.right, bound, cut.block, cut.lanes)
            sums = (outs[1], strip == 0) if spec.sums else None
            left = scratch([n_strips, cut.block, tall])
            right = scratch([cut.block, cut.columns])
            with loop(tirx.ceildiv(n, cut.block)) as b:
                row = T.bind(b * cut.block)
                rows = T.bind(tirx.min(int64(cut.block), n - row))
                pack_strips(spec.k, tall, pack_left(row, rows), rows, left)
                load = pack_right(row, rows)
                with loop(some) as p:
                    panel = T.bind(begin + p)
                    pack_panel(spec, cut, panel, load, rows, right, sums)
                    outer_tiles(spec, cut, (strip, strips), panel, rows, left, right, outs[0])

    return kernel(name, "outer", emit)


def pack_strips(k_size: int, tall: int, load: Load, rows: Expr, to: Buffer) -> None:
    """to[strip, i, r] = A(i, strip * tall + r)."""
    full, rest = divmod(k_size, tall)
    if full:
        with loop(full) as s, loop(rows) as i, loop(tall, "lane") as r:
            T.buffer_store(to, load(i, s * tall + r), [s, i, r])
    if rest:
        with loop(rows) as i, loop(rest, "lane") as r:
            T.buffer_store(to, load(i, int64(full * tall) + r), [int64(full), i, r])


Sums = tuple[Buffer, Expr]


def pack_panel(
    spec: Outer, cut: Tile, panel: Expr, load: Load, rows: Expr, to: Buffer, sums: Sums | None
) -> None:
    """to[i, j] = B(i, panel * NR + j), on the last panel only real columns.

    With `sums` = (c, condition), c takes the columns' sums where the condition holds.
    """
    n_panels = panels(spec.n_columns, cut)
    last = spec.n_columns - (n_panels - 1) * cut.columns

    def columns(width: int) -> None:
        def move(i: Expr) -> None:
            def put(_: Expr, j: Expr) -> None:
                T.buffer_store(to, load(i, panel * cut.columns + j), [i, j])

            tile(1, width, cut.lanes, put)

        if sums is None:
            with loop(rows) as i:
                move(i)
            return
        total = accumulate(1, width, cut.lanes, rows, lambda i: lambda _, j: to[i, j], move)

        def add(_: Expr, j: Expr) -> None:
            at = panel * cut.columns + j
            T.buffer_store(out, out[at] + total[0, j], [at])

        out, condition = sums
        with T.If(condition), T.Then():
            tile(1, width, cut.lanes, add)

    if n_panels == 1 or last == cut.columns:
        columns(last)
    else:
        either(panel < n_panels - 1, lambda: columns(cut.columns), lambda: columns(last))


def outer_tiles(
    spec: Outer,
    cut: Tile,
    strips: tuple[Expr, Expr],
    panel: Expr,
    rows: Expr,
    left: Buffer,
    right: Buffer,
    out: Buffer,
) -> None:
    """Every tile of one panel of C takes the sum over a block of rows."""
    tall = cut.heights[0]
    full, rest = divmod(spec.k, tall)
    store = tile_store(spec, cut, out, (int64(0), int64(spec.k)), panel)
    touch = tile_touch(spec, cut, out, int64(0), panel)

    def one(strip: Expr, height: int) -> None:
        def step(i: Expr) -> Callable[[Expr, Expr], Expr]:
            return lambda r, j: left[strip, i, r] * right[i, j]

        touch(height, strip * tall)
        acc = accumulate(height, cut.columns, cut.lanes, rows, step)
        store(height, strip * tall, acc)

    begin, count = strips
    if full:
        with loop(tirx.min(count, int64(full) - begin)) as s:
            one(T.bind(begin + s), tall)
    if rest:
        with T.If(begin + count > full), T.Then():
            one(int64(full), rest)


def check_columns(column: int, width: int, ldc: int) -> None:
    """Refuses columns that do not lie in C."""
    if column < 0 or column + width > ldc:
        raise ShapeError(
            f"columns {column}:{column + width} do not lie in a result of {ldc} columns; "
            "a wider result, or cover=False, is needed"
        )
