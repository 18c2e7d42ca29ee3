"""Products that read their weights where they lie, row-major in a parameter, without packing.

Packing passes over all weights once a step. That pays where many rows share them; a batch of one
graph has few. Plain weights are read in blocks of rows, each block times all rows of A before the
next, so that what is read lies close together; the result is summed up in cache. Of transposed
weights the lanes run along K, and every element of the result is a dot product of two rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ....errors import ShapeError
from ...lowering.specs import DirectWeights, Product, operands
from ...target_rules import Tile, direct_panels
from ..loopnest import (
    LINE,
    Buffer,
    Expr,
    hold,
    int64,
    kernel,
    loop,
    part,
    prefetch_read,
    scratch,
    tile,
    turned,
    vectors,
    zero,
)
from .bfloat16 import span
from .narrow import add_lanes
from .operands import Load, Shapes, bind, packer
from .register_tile import by_height, by_panel, check_columns, spare_rows

STRETCHES = 4  # of a task's panels: of what two turns in a row read last and first, as much is kept


@dataclass(frozen=True)
class Work:
    """A task's part of a block of rows: rows `start + i` of C for i < n_rows, some panels."""

    spec: Product
    rectangle: DirectWeights
    cut: Tile
    weights: Buffer
    out: Buffer
    load: Load  # element k of A's row i
    start: Expr
    n_rows: Expr
    panels: tuple[Expr, Expr]  # (first, count)
    turn: Expr  # odd: from last to first

    def at(self, i: Expr, j: Expr) -> tuple[Expr, Expr]:
        """Where the result's element [i, j] lies in C."""
        return self.start + i, j + self.spec.column

    def weight(self, k: Expr, j: Expr) -> tuple[Expr, Expr]:
        """Where W[k, j] lies in P."""
        row, column = (j, k) if self.rectangle.transposed else (k, j)
        return row + self.rectangle.row, column + self.rectangle.column


def direct_product(spec: Product, weights: DirectWeights, cut: Tile, name: str) -> tirx.PrimFunc:
    """f(n, turn, start_c, starts..., index starts..., sources..., indices..., P, C): `Product`.

    `cut` is one of `layout.direct_variants`. No column is written but those of the product.

    Raises:
        ShapeError: columns outside of C or P, or a precision other than float32.
    """
    check_columns(spec.column, spec.n_columns, spec.ldc)
    check_rectangle(spec, weights)
    assert cut.narrow == weights.transposed and cut.parts[0] == 1

    def emit() -> None:
        last: Shapes = [("P", (None, weights.ld), "float32"), ("C", (None, spec.ldc), "float32")]
        names = ["n", "turn", "start_c"]
        (n, turn, start), bound, (parameter, out) = bind(names, operands(spec.pieces), last)
        with loop(cut.tasks, "task") as task:
            some = part(task, cut.tasks, direct_panels(spec.n_columns, cut))
            spare = spare_rows(cut.heights)
            pack = packer(spec.pieces, bound, cut.block, cut.lanes, spare)
            with loop(tirx.ceildiv(n, cut.block)) as b:
                row = hold(b * cut.block)
                n_rows = hold(tirx.min(int64(cut.block), n - row))
                load, first = pack(row, n_rows), hold(start + row)
                work = Work(spec, weights, cut, parameter, out, load, first, n_rows, some, turn)
                (dot_panels if weights.transposed else stream_panels)(work)

    return kernel(name, "product", emit)


def check_rectangle(spec: Product, weights: DirectWeights) -> None:
    """Refuses weights that do not lie in the parameter, and operands of another precision."""
    width = spec.k if weights.transposed else spec.n_columns
    if weights.row < 0 or weights.column < 0 or weights.column + width > weights.ld:
        raise ShapeError(
            f"weights from row {weights.row} on, columns {weights.column}:"
            f"{weights.column + width}, do not lie in a parameter of {weights.ld} columns"
        )
    if spec.precision != "float32":
        raise ShapeError(f"{spec.precision} operands need packed weights: use product.product")


Panel = Callable[[Expr, int], None]  # of the first column, columns


def each_panel(work: Work, whole: int, emit: Panel, at_once: int = 1) -> None:
    """`emit` for a task's panels, `at_once` together while there are; the last may be short."""
    begin, some = work.panels
    n_panels = direct_panels(work.spec.n_columns, work.cut)
    last = work.spec.n_columns - (n_panels - 1) * whole
    if at_once > 1:
        n_whole = tirx.min(some, work.spec.n_columns // whole - begin)
        n_groups = hold(n_whole // at_once)
        with loop(n_groups) as g:
            group = turned(g, n_groups, work.turn)
            emit(hold((begin + group * at_once) * whole), whole * at_once)
        begin, some = hold(begin + n_groups * at_once), hold(some - n_groups * at_once)
    with loop(some) as p:
        panel = hold(begin + turned(p, some, work.turn))
        by_panel(panel, n_panels, whole, last, lambda width: emit(panel * whole, width))


def is_short(height: int, cut: Tile) -> bool:
    """Whether a tile of this height has registers for two panels."""
    return 2 * height <= cut.heights[0]


def never_unrolled(steps: int, work: Work) -> Expr:
    """`steps`, as an extent that the compiler does not know: the rows are never less than none.

    It would unroll the loop of a known few, move the loads of all steps ahead and run out of
    registers: K = 150 took two and a half times as long.
    """
    return hold(steps + tirx.min(work.n_rows, int64(0)))


def stream_panels(work: Work) -> None:
    """All rows times a task's panels of plain weights, a block of `depth` rows at a time.

    In stretches of panels, for the sake of turns: the order of rows decides about bits.
    """
    cut, (first_panel, some) = work.cut, work.panels
    if not work.spec.accumulate:
        each_panel(work, cut.columns, partial(clear, work))
    n = min(STRETCHES, direct_panels(work.spec.n_columns, cut))
    with loop(n) as s:
        stretch = turned(s, int64(n), work.turn)
        begin, end = (hold(i * some // n) for i in (stretch, stretch + 1))
        stream_stretch(replace(work, panels=(hold(first_panel + begin), hold(end - begin))))


def stream_stretch(work: Work) -> None:
    """All rows times neighbouring panels of plain weights."""
    cut = work.cut
    depth = never_unrolled(work.spec.k, work)
    with loop(tirx.ceildiv(depth, cut.depth)) as b:
        first = hold(b * cut.depth)
        block = first, hold(tirx.min(int64(cut.depth), depth - first))

        def tiles(height: int, row: Expr) -> None:
            short = is_short(height, cut)
            tile = partial(stream_tile, work, block, height, row)
            each_panel(work, cut.columns, tile, at_once=2 if short else 1)

        by_height(cut.heights, work.n_rows, tiles)


def clear(work: Work, column: Expr, width: int) -> None:
    """Zeros where a panel's sums will be."""
    with loop(work.n_rows) as i:
        vectors(
            width,
            work.cut.lanes,
            lambda j: T.buffer_store(work.out, zero(), [*work.at(i, column + j)]),
        )


def stream_tile(
    work: Work,
    block: tuple[Expr, Expr],
    height: int,
    row: Expr,
    column: Expr,
    width: int,
) -> None:
    """Adds to a tile of C what a block of rows (first, count) of the weights contributes.

    Rows of the tile that are none of A's read the last one's sums, and are not stored. The same
    columns of the next block are asked for meanwhile; with a single row of A there is nothing to
    do meanwhile, and asking would only take the place of reading.
    """
    out, lanes, (first, count) = work.out, work.cut.lanes, block
    acc = scratch([height, width], "local")

    def fetch(r: Expr, j: Expr) -> None:
        i = tirx.min(row + r, work.n_rows - 1) if height > 1 else row + r
        T.buffer_store(acc, out[work.at(i, column + j)], [r, j])

    def put(r: Expr, j: Expr) -> None:
        T.buffer_store(out, acc[r, j], [*work.at(row + r, column + j)])

    tile(height, width, lanes, fetch)
    with loop(count) as step:
        k = first + step
        if height > 1:
            later = T.bind(tirx.min(k + work.cut.depth, int64(work.spec.k - 1)))
            with loop(-(-width // LINE), "vector") as v:
                prefetch_read(work.weights[work.weight(later, column + v * LINE)], far=True)

        def add(r: Expr, j: Expr) -> None:
            term = work.load(row + r, k) * work.weights[work.weight(k, column + j)]
            T.buffer_store(acc, acc[r, j] + term, [r, j])

        tile(height, width, lanes, add)
    tile(height, width, lanes, put, (lambda r: row + r < work.n_rows) if height > 1 else None)


def dot_panels(work: Work) -> None:
    """All rows times a task's panels of transposed weights, two panels at a time."""
    cut = work.cut

    def panels(column: Expr, width: int) -> None:
        def tiles(height: int, row: Expr) -> None:
            whole = width if is_short(height, cut) else min(width, cut.vectors)
            with loop(width // whole) as p:
                dot_tile(work, column + p * whole, whole, height, row)

        by_height(cut.heights, work.n_rows, tiles)

    each_panel(work, cut.vectors, panels, at_once=2)


def dot_tile(work: Work, column: Expr, width: int, height: int, row: Expr) -> None:
    """A tile of C whose elements are vectors of partial sums until their lanes are added up.

    The short vector of what is left over comes first: there is nothing yet to keep in other lanes.
    """
    lanes = work.cut.lanes
    sums = scratch([height, width, lanes], "local")
    with loop(height, "row") as r, loop(width, "vector") as j:
        T.buffer_store(sums, tirx.Broadcast(zero(), lanes), [r, j, span(0, lanes)])

    def step(begin: Expr, n: int) -> None:
        k = span(begin, n)
        with loop(width, "vector") as j, loop(height, "row") as r:
            term = work.load(row + r, k) * work.weights[work.weight(k, column + j)]
            T.buffer_store(sums, sums[r, j, span(0, n)] + term, [r, j, span(0, n)])

    full, rest = divmod(work.spec.k, lanes)
    if rest:
        step(int64(full * lanes), rest)
    if full:
        with loop(never_unrolled(full, work)) as v:
            ask_ahead(work, column, width, v, full)
            step(v * lanes, lanes)
    with loop(height, "row") as r:
        with T.If(row + r < work.n_rows), T.Then(), loop(width, "vector") as j:
            total, at = add_lanes(sums, lanes, r, j), work.at(row + r, column + j)
            adds = work.spec.accumulate
            T.buffer_store(work.out, work.out[at] + total if adds else total, [*at])


def ask_ahead(work: Work, column: Expr, width: int, v: Expr, full: int) -> None:
    """Asks for the vectors `ahead` after vector v; past the end, for the next panel's first.

    Where each row begins anew, the processor has nothing to foretell the next reads from.
    """
    ahead = v + min(work.cut.ahead, -(-full // 2))
    wraps = ahead >= full
    j = T.bind(column + tirx.Select(wraps, int64(width), int64(0)))
    k = T.bind(tirx.Select(wraps, ahead - full, ahead) * work.cut.lanes)
    with loop(width, "vector") as c:
        prefetch_read(work.weights[work.weight(k, j + c)])
