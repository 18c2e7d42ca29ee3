"""Kernels that cut a batch into slices, the rows on which a group of kinds runs, and order them.

Plain loops over cells and slices, compiled once for a machine; `batching` calls them. All arrays
are int64 unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from ....runtime import COUNT, EAGER, GROUP, LAZY, LEVEL, RECURRENT, SLICE_COLUMNS
from ..loopnest import Buffer, Expr, arrays, hold, int64, loop, scalars
from .integers import Counter, at, flags, ints, longs, put, when


def segments() -> None:
    """The slices of every group of kinds: contiguous in each of its spaces, as long as can be.

    Cells of a group (member uint8[n_groups, n_kinds]) join if in each space that it uses (uses
    uint8[n_groups, n_spaces], spaces uint8[n_spaces, n_kinds]) nothing lies between them, and with
    stage int64[n_groups] = RECURRENT they are of one level. out int64[n, 4 + n_spaces]: zero, where
    scratch begins; the level; the count of rows; the group; the first row in every space, counted
    from `base` int64[n_spaces] on. result int64[n_groups]: slices of each group.

    The same in NumPy: `segments` of tests/helpers/host_kernels_in_numpy.py.
    """
    n_groups, n_cells, n_kinds, n_spaces = scalars(["n_groups", "n_cells", "n_kinds", "n_spaces"])
    level, kind, count, base, stage, out, result, member, uses, spaces = arrays(
        [
            *longs("cell_level", "cell_kind", "cell_count", "base", "stage", "out", "result"),
            *flags("member", "uses", "spaces"),
        ]
    )
    slices = _Slices(out, stage, n_spaces)
    with loop(n_groups) as g:
        before = hold(slices.n.value)
        slices.apart.set(1)
        slices.each_space(before, lambda s, to: put(out, to, at(base, s)))
        with loop(n_cells) as c:
            k, size = hold(at(kind, c)), hold(at(count, c))
            held = hold(at(member, g * n_kinds + k))
            when(held > 0, lambda: slices.take(g, at(level, c), size))

            def move(s: Expr, to: Expr) -> None:
                there = hold(at(spaces, s * n_kinds + k))
                put(out, to, at(out, to) + there * size)
                used = at(uses, g * n_spaces + s) > 0
                when(tirx.all(used, there != held), lambda: slices.apart.set(1))

            slices.each_space(slices.n.value, move)
        put(result, g, slices.n.value - before)


class _Slices:
    """Slices as they are found; in the row after the last one, the running end of every space.

    n: how many there are. apart: whether the next cell begins another.
    """

    def __init__(self, out: Buffer, stage: Buffer, n_spaces: Expr) -> None:
        self._out, self._stage, self._n_spaces = out, stage, n_spaces
        self._width = hold(n_spaces + SLICE_COLUMNS)
        self.n, self.apart = Counter(), Counter()

    def each_space(self, row: Expr, emit: Callable[[Expr, Expr], None]) -> None:
        """`emit(space, where it is in a slice's row)`."""
        start = hold(row * self._width + SLICE_COLUMNS)
        with loop(self._n_spaces) as s:
            emit(s, hold(start + s))

    def take(self, group: Expr, level: Expr, size: Expr) -> None:
        """Add a cell of the group to the last slice, or begin another with it."""
        out = self._out
        here, last = hold(level), hold((self.n.value - 1) * self._width)
        with T.If(self.apart.value < 1), T.Then():
            recurrent = at(self._stage, group).equal(RECURRENT)
            crossing = tirx.all(recurrent, here != at(out, last + LEVEL))
            when(crossing, lambda: self.apart.set(1))
        when(self.apart.value > 0, lambda: self._open(here, group))
        mine = hold((self.n.value - 1) * self._width + COUNT)
        put(out, mine, at(out, mine) + size)

    def _open(self, level: Expr, group: Expr) -> None:
        out, width = self._out, self._width
        for column, value in enumerate((0, level, 0, group)):
            put(out, self.n.value * width + column, value)
        self.n.add()
        self.each_space(self.n.value, lambda _, to: put(out, to, at(out, to - width)))
        self.apart.set(0)


def arrange() -> None:
    """order int32[n]: slices as they run, those of the first n_forward groups, then the others.

    Within a direction eager ones come first, then recurrent ones by level, from the lowest or, past
    n_forward, from the highest on, then lazy ones; where that is equal, as they came. `sizes` are
    the slices of each group, as `segments` leaves them, `stage` numbers of stages. `count` is room
    for 2 * (n_levels + 2). result = (slices of the first direction, of both, the most rows of one).
    """
    names = ["n_groups", "n_forward", "n_levels", "width"]
    n_groups, n_forward, n_levels, width = scalars(names)
    slices, sizes, stage, count, result, order = arrays(
        [*longs("slices", "sizes", "stage", "count", "result"), *ints("order")]
    )
    n, n_first, most, start = Counter(), Counter(), Counter(), Counter()
    n_keys = hold((n_levels + 2) * 2)
    with loop(n_groups) as g:
        n.add(at(sizes, g))
        when(g < n_forward, lambda: n_first.add(at(sizes, g)))
    with loop(n_keys) as q:
        put(count, q, 0)

    def key_of(i: Expr) -> Expr:
        group, level = hold(at(slices, i * width + GROUP)), hold(at(slices, i * width + LEVEL))
        backward = group >= n_forward
        rank = tirx.if_then_else(backward, n_levels - 1 - level, level) + 1
        rank = tirx.if_then_else(at(stage, group).equal(EAGER), int64(0), rank)
        rank = tirx.if_then_else(at(stage, group).equal(LAZY), n_levels + 1, rank)
        return hold(rank + tirx.if_then_else(backward, n_levels + 2, int64(0)))

    with loop(n.value) as i:
        key = key_of(i)
        put(count, key, at(count, key) + 1)
        rows = hold(at(slices, i * width + COUNT))
        when(rows > most.value, lambda: most.set(rows))
    with loop(n_keys) as q:
        size = hold(at(count, q))
        put(count, q, start.value)
        start.add(size)
    with loop(n.value) as i:
        key = key_of(i)
        to = hold(at(count, key))
        put(count, key, to + 1)
        put(order, to, i)
    for place, value in enumerate((n_first.value, n.value, most.value)):
        put(result, place, value)


KERNELS: dict[str, Callable[[], None]] = {"segments": segments, "arrange": arrange}
