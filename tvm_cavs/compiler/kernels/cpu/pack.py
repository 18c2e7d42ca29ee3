"""Kernels that put weights into the layout of products, and gradients back into their places.

All pass over memory once. Packed weights are float32[panels, K, NR], row k of a panel being NR
neighbouring columns of the product's right operand, with zeros where nothing was placed; for
bfloat16 products uint32[panels, K/2, NR], a word of two rows of one column each. A narrow product's
are packed as those of its transpose, in one panel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from ....errors import ShapeError
from ...lowering.specs import Pack, Placement
from ...target_rules import Tile, panels, weights_shape
from ..loopnest import Buffer, Expr, arrays, hold, int64, kernel, loop, part, scratch, vectors, zero
from .bfloat16 import WORD, constant, linked, span, strips, upper, word, words
from .transpose import transposed

OTHER_HALF = (0xFFFF0000, 0x0000FFFF)  # of a word: what an even, an odd row of W leaves alone

Segment = tuple[int, int, int, int]  # first panel, panels, column in the panel, width
Some = tuple[Expr, Expr]  # of some panels the first and how many there are


def check_pack(spec: Pack) -> None:
    """Refuses rectangles that do not lie in their parameter or in W, or that overlap in W."""
    seen: list[tuple[int, int, int, int]] = []
    for number, place in enumerate(spec.placements):
        n_rows, n_columns = spec.shapes[place.parameter]
        inside = 0 <= place.rows[0] < place.rows[1] <= n_rows
        inside = inside and 0 <= place.columns[0] < place.columns[1] <= n_columns
        if not inside:
            raise ShapeError(
                f"placement {number}: {place.rows} x {place.columns} is no rectangle of parameter "
                f"{place.parameter}, which is {n_rows} x {n_columns}"
            )
        height, width = place.shape
        if place.row < 0 or place.row + height > spec.k:
            raise ShapeError(f"placement {number}: rows end at {place.row + height} of {spec.k}")
        if place.column < 0 or place.column + width > spec.n_columns:
            raise ShapeError(
                f"placement {number}: columns end at {place.column + width} of {spec.n_columns}"
            )
        box = (place.row, place.row + height, place.column, place.column + width)
        for other in seen:
            if box[0] < other[1] and other[0] < box[1] and box[2] < other[3] and other[2] < box[3]:
                raise ShapeError(f"placement {number} covers {box}, which overlaps {other}")
        seen.append(box)


def segments(place: Placement, columns: int) -> list[Segment]:
    """A rectangle cut at panel borders."""
    begin, end = place.column, place.column + place.shape[1]
    cuts: list[Segment] = []
    while begin < end:
        panel, offset = divmod(begin, columns)
        whole = 0 if offset else (end - begin) // columns
        width = columns if whole else min(columns - offset, end - begin)
        cuts.append((panel, max(whole, 1), offset, width))
        begin += width * max(whole, 1)
    return cuts


def pack(spec: Pack, cut: Tile, name: str, tasks: int = 1) -> tirx.PrimFunc:
    """f(parameters..., W): all of W is written, every panel of it by one of the tasks.

    Raises:
        ShapeError: a rectangle that does not fit.
    """
    check_pack(spec)
    if cut.narrow:
        spec, cut = of_transpose(spec), one_panel(spec.k, cut)
    n_panels, bf16 = panels(spec.n_columns, cut), spec.precision == "bf16"
    depth, dtype = (words(spec.k), WORD) if bf16 else (spec.k, "float32")

    def emit() -> None:
        shapes = [(f"P{i}", shape, "float32") for i, shape in enumerate(spec.shapes)]
        packed = ("W", weights_shape(depth, spec.n_columns, cut), dtype)
        *parameters, weights = arrays([*shapes, packed])
        with loop(tasks, "task") as task:
            own = part(task, tasks, n_panels)
            fill_holes(spec, own, weights, depth, cut)
            for place in spec.placements:
                for segment in segments(place, cut.columns):
                    move = pack_transposed if place.transposed else pack_plain
                    move = pack_words if bf16 else move
                    some = shared(own, segment, n_panels)
                    move(place, segment, some, cut, parameters[place.parameter], weights)

    made = kernel(name, "pack", emit)
    return linked(made) if bf16 else made


def fill_holes(spec: Pack, own: Some, weights: Buffer, depth: int, cut: Tile) -> None:
    """Zeros where no rectangle lies, in these panels (first, count)."""
    begin, count = own
    last = panels(spec.n_columns, cut) - 1
    if not is_covered(spec) or (spec.precision == "bf16" and spec.k % 2):
        with loop(count) as p:
            fill_zero(weights, begin + p, 0, (0, depth), cut)
    elif spec.n_columns % cut.columns:
        with T.If(begin + count > last), T.Then():
            fill_zero(weights, int64(last), spec.n_columns % cut.columns, (0, depth), cut)
    if (rows := int(weights.shape[1])) > depth:
        with loop(count) as p:
            fill_zero(weights, begin + p, 0, (depth, rows), cut)


def shared(own: Some, segment: Segment, n_panels: int) -> Some:
    """Which panels of a segment (first, count) are among a task's own, counted from its first."""
    (begin, count), (panel, n, _, _) = own, segment
    if isinstance(count, tirx.IntImm) and count.value == n_panels:
        return int64(0), int64(n)
    first = hold(tirx.max(begin - panel, int64(0)))
    return first, hold(tirx.max(tirx.min(begin + count - panel, int64(n)) - first, int64(0)))


def of_transpose(spec: Pack) -> Pack:
    """The same operand, transposed."""
    placements = tuple(
        replace(p, row=p.column, column=p.row, transposed=not p.transposed) for p in spec.placements
    )
    return replace(spec, placements=placements, k=spec.n_columns, n_columns=spec.k)


def one_panel(n_columns: int, cut: Tile) -> Tile:
    """Panels as wide as the operand."""
    return replace(cut, vectors=-(-n_columns // cut.lanes), narrow=False)


def fill_zero(weights: Buffer, panel: Expr, begin: int, rows: tuple[int, int], cut: Tile) -> None:
    """Zeros in the columns of a panel from `begin` on, in rows from the first to below the last."""
    nothing = constant(0, 1) if weights.dtype == WORD else zero()
    with loop(rows[1] - rows[0]) as k:
        vectors(
            cut.columns - begin,
            cut.lanes,
            lambda j: T.buffer_store(weights, nothing, [panel, k + rows[0], j + begin]),
        )


def is_covered(spec: Pack) -> bool:
    """Whether the rectangles leave no hole."""
    return sum(p.shape[0] * p.shape[1] for p in spec.placements) == spec.k * spec.n_columns


@contextmanager
def each(some: Some) -> Iterator[Expr]:
    """A loop over these panels."""
    first, count = some
    with loop(count) as p:
        yield first + p


def pack_plain(
    place: Placement, seg: Segment, some: Some, cut: Tile, param: Buffer, weights: Buffer
) -> None:
    """Rows of the parameter become rows of the panels, in some panels of the segment."""
    panel, _, offset, width = seg
    first = place.columns[0] + panel * cut.columns + offset - place.column
    with each(some) as p, loop(place.shape[0]) as k:
        vectors(
            width,
            cut.lanes,
            lambda j: T.buffer_store(
                weights,
                param[k + place.rows[0], p * cut.columns + j + first],
                [p + panel, k + place.row, j + offset],
            ),
        )


def pack_transposed(
    place: Placement, seg: Segment, some: Some, cut: Tile, param: Buffer, weights: Buffer
) -> None:
    """Columns of the parameter become rows of the panels, a square block of vectors at a time."""
    panel, _, offset, width = seg
    first, lanes = place.rows[0] + panel * cut.columns + offset - place.column, cut.lanes
    (full, rest), (n_blocks, left) = divmod(width, lanes), divmod(place.shape[0], lanes)

    def block(p: Expr, j: Expr, k: Expr) -> None:
        along, row = span(k + place.columns[0], lanes), p * cut.columns + j + first
        columns = transposed([param[row + r, along] for r in range(lanes)])
        for i, column in enumerate(columns):
            at = [p + panel, k + (place.row + i), span(j + offset, lanes)]
            T.buffer_store(weights, column, at)

    def one_by_one(p: Expr, begin: Expr, n: int, k: Expr) -> None:
        with loop(n, "lane") as lane:
            j = begin + lane
            value = param[p * cut.columns + j + first, k + place.columns[0]]
            T.buffer_store(weights, value, [p + panel, k + place.row, j + offset])

    with each(some) as p:
        if full:
            with loop(full) as v:
                if n_blocks:
                    with loop(n_blocks) as b:
                        block(p, v * lanes, b * lanes)
                if left:
                    with loop(left) as k:
                        one_by_one(p, v * lanes, lanes, n_blocks * lanes + k)
        if rest:
            with loop(place.shape[0]) as k:
                one_by_one(p, int64(full * lanes), rest, k)


def pack_words(
    place: Placement, seg: Segment, some: Some, cut: Tile, param: Buffer, weights: Buffer
) -> None:
    """Rows or columns of the parameter, two at a time, become rows of the panels' words.

    A rectangle that begins or ends within a word leaves the other half as it is.
    """
    width = seg[3]
    words_of = _Words(place, seg, cut, param, weights)
    begin, end = words_of.begin, words_of.end
    with each(some) as p:
        for k in (begin,) * (begin % 2) + (end - 1,) * (end % 2):
            strips(width, partial(words_of.put_half, p, k))
        if place.transposed:  # strips outside: the rows of a vector are read along their length
            strips(width, partial(words_of.put_rows, p))
        else:
            with loop(words_of.n_rows) as i:
                strips(width, partial(words_of.put, p, i + words(begin)))


@dataclass(frozen=True)
class _Words:
    """A rectangle of a parameter, in the words of a segment of panels."""

    place: Placement
    segment: Segment
    cut: Tile
    param: Buffer
    weights: Buffer

    @property
    def begin(self) -> int:
        """The first row of W."""
        return self.place.row

    @property
    def end(self) -> int:
        """One more than the last row of W."""
        return self.place.row + self.place.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows of whole words."""
        return self.end // 2 - words(self.begin)

    def put(self, p: Expr, i: Expr, j: Expr, lanes: int) -> None:
        """Words of row i, both halves of which are in the rectangle."""
        both = (self._value(p, i * 2 + half, j, lanes) for half in (0, 1))
        T.buffer_store(self.weights, word(*both, lanes=lanes), self._at(p, i, j, lanes))

    def put_rows(self, p: Expr, j: Expr, lanes: int) -> None:
        """Words of all those rows: of a transposed rectangle in square blocks, where they fit."""
        first, in_block = words(self.begin), lanes // 2
        n_blocks, left = divmod(self.n_rows, in_block) if lanes > 1 else (0, self.n_rows)
        if n_blocks:
            with loop(n_blocks) as b:
                self._put_block(p, hold(first + b * in_block), j, lanes)
        if left:
            with loop(left) as i:
                self.put(p, i + (first + n_blocks * in_block), j, lanes)

    def _put_block(self, p: Expr, i: Expr, j: Expr, lanes: int) -> None:
        """lanes / 2 rows of words, from row i on: as many columns as rows of the parameter."""
        k, row = self._place(p, i * 2, j)
        values = transposed([self.param[row + r, span(k, lanes)] for r in range(lanes)])
        for r in range(lanes // 2):
            new = word(values[2 * r], values[2 * r + 1], lanes=lanes)
            T.buffer_store(self.weights, new, self._at(p, i + r, j, lanes))

    def put_half(self, p: Expr, k: int, j: Expr, lanes: int) -> None:
        """Row k of W alone, into its half of the words."""
        at = self._at(p, int64(k // 2), j, lanes)
        new = (upper if k % 2 else word)(self._value(p, int64(k), j, lanes), lanes=lanes)
        old = T.bitwise_and(self.weights[tuple(at)], constant(OTHER_HALF[k % 2], lanes))
        T.buffer_store(self.weights, T.bitwise_or(old, new), at)

    def _at(self, p: Expr, i: Expr, j: Expr, lanes: int) -> list[Expr]:
        panel, _, offset, _ = self.segment
        return [p + panel, i, span(j + offset, lanes)]

    def _value(self, p: Expr, k: Expr, j: Expr, lanes: int) -> Expr:
        """Elements of row k of W, `lanes` of them from column j of the segment on."""
        param, (k, j) = self.param, self._place(p, k, j)
        if not self.place.transposed or lanes == 1:
            return param[j, k] if self.place.transposed else param[k, span(j, lanes)]
        held = scratch([lanes], "local")  # only the last index of an element may be a vector
        with loop(lanes, "lane") as lane:
            T.buffer_store(held, param[j + lane, k], [lane])
        return held[span(0, lanes)]

    def _place(self, p: Expr, k: Expr, j: Expr) -> tuple[Expr, Expr]:
        """Where row k of W, column j of the segment lie along the parameter."""
        row, column = self._origin()
        return int64(k + row - self.begin), p * self.cut.columns + j + column

    def _origin(self) -> tuple[int, int]:
        """Where the rectangle begins along W's rows, where the segment does along its columns."""
        panel, _, offset, _ = self.segment
        rows, columns = self.place.rows[0], self.place.columns[0]
        row, column = (columns, rows) if self.place.transposed else (rows, columns)
        return row, column + panel * self.cut.columns + offset - self.place.column
