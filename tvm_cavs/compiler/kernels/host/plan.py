"""Kernels that plan a batch: sort its vertices into rows, and bring what graphs say into row order.

Each is a plain loop over vertices, compiled once for a machine and independent of any network;
`planner` calls them. A `member` is uint8[n_kinds], 1 for the kinds that have rows in a space; all
other arrays are int32 unless a comment says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm.tirx.script import builder as T

from ..loopnest import Buffer, Expr, arrays, hold, int64, loop, scalars
from .integers import Counter, at, flags, ints, longs, put, when


def slots() -> None:
    """children[v, k] = child of v in slot k, or -1; mask[v] = the slots that hold one, as bits."""
    n, arity = scalars(["n", "arity"])
    child_ptr, child, children, mask = arrays(
        [*ints("child_ptr", "child", "children"), *longs("mask")]
    )
    with loop(n) as v:
        first, bits = hold(at(child_ptr, v)), Counter()
        count = hold(at(child_ptr, v + 1) - first)
        with loop(arity) as k:
            held = Counter(-1)
            when(k < count, lambda: held.set(at(child, first + k)))
            put(children, v * arity + k, held.value)
            when(held.value >= 0, lambda: bits.set(bits.value | (int64(1) << k)))
        put(mask, v, bits.value)


def pull() -> None:
    """mask[v] |= present[v] << bit."""
    n, bit = scalars(["n", "bit"])
    present, mask = arrays([*flags("present", dtype="bool"), *longs("mask")])
    with loop(n) as v:
        put(mask, v, at(mask, v) | (at(present, v) << bit))


def sort() -> None:
    """Rows by (level, rank of the kind), in the order of vertices where both are equal.

    lookup[mask] is the rank of a kind, -1 where unknown; kind_of[rank] its number. Counts n_keys =
    n_levels * n_kinds groups in `count`; those with vertices are the cells. result = (n_cells,
    vertices of unknown kind). The same in NumPy: `sort` of tests/helpers/host_kernels_in_numpy.py.
    """
    n, n_kinds, n_keys = scalars(["n", "n_kinds", "n_keys"])
    names = "level lookup kind_of rank count row order kind".split()
    level, lookup, kind_of, rank, count, row, order, kind, mask, *cells, result = arrays(
        [*ints(*names), *longs("mask", "cell_level", "cell_kind", "cell_count", "result")]
    )
    unknown, n_cells, start = Counter(), Counter(), Counter()
    with loop(n_keys) as q:
        put(count, q, 0)
    with loop(n) as v:
        found = _or_zero(at(lookup, at(mask, v)), unknown)
        put(rank, v, found.value)
        key = hold(at(level, v) * n_kinds + found.value)
        put(count, key, at(count, key) + 1)
    with loop(n_keys) as q:
        size = hold(at(count, q))
        cell = q // n_kinds, at(kind_of, q % n_kinds), size
        when(size > 0, partial(_append, cells, n_cells, cell))
        put(count, q, start.value)
        start.add(size)
    with loop(n) as v:
        r = hold(at(rank, v))
        to = _next(count, hold(at(level, v) * n_kinds + r))
        put(row, v, to)
        put(order, to, v)
        put(kind, to, at(kind_of, r))
    put(result, 0, n_cells.value)
    put(result, 1, unknown.value)


def _or_zero(rank: Expr, unknown: Counter) -> Counter:
    """A rank, or 0 where it is -1, which is counted."""
    found = Counter(rank)

    def miss() -> None:
        unknown.add()
        found.set(0)

    when(found.value < 0, miss)
    return found


def _append(columns: Sequence[Buffer], n: Counter, values: Sequence[Expr]) -> None:
    """Add an entry to every column, of which there are n."""
    for column, value in zip(columns, values, strict=True):
        put(column, n.value, value)
    n.add()


def _next(count: Buffer, key: Expr) -> Expr:
    """count[key]++."""
    to = hold(at(count, key))
    put(count, key, to + 1)
    return to


def below() -> None:
    """below[row, k] = the row of the child in slot k, or -1."""
    n, arity = scalars(["n", "arity"])
    order, row, children, out = arrays(ints("order", "row", "children", "below"))
    with loop(n) as i:
        v = hold(at(order, i))
        with loop(arity) as k:
            found = Counter(at(children, v * arity + k))
            when(found.value >= 0, lambda: found.set(at(row, found.value)))
            put(out, i * arity + k, found.value)


def child() -> None:
    """out = one more than the row of the child in `slot`, for the rows of a space."""
    n, arity, slot = scalars(["n", "arity", "slot"])
    kind, rows, out, member = arrays([*ints("kind", "below", "out"), *flags("member")])
    with_rows(n, kind, member, lambda i, p: put(out, p, at(rows, i * arity + slot) + 1))


def take() -> None:
    """out[p] = values[vertex of the space's row p]."""
    (n,) = scalars(["n"])
    order, kind, values, out, member = arrays(
        [*ints("order", "kind", "values", "out"), *flags("member")]
    )
    with_rows(n, kind, member, lambda i, p: put(out, p, at(values, at(order, i))))


def take_present() -> None:
    """out float32[p, 1] = 1.0 where present bool[vertex of the space's row p], else 0.0."""
    (n,) = scalars(["n"])
    order, kind, present, out, member = arrays(
        [
            *ints("order", "kind"),
            *flags("present", dtype="bool"),
            ("out", (None, 1), "float32"),
            *flags("member"),
        ]
    )

    def move(i: Expr, p: Expr) -> None:
        T.buffer_store(out, at(present, at(order, i)).astype("float32"), [p, int64(0)])

    with_rows(n, kind, member, move)


def take_rows(dtype: str = "float32") -> None:
    """out[p, j] = values[vertex of the space's row p, j]; both of `dtype`."""
    n, width = scalars(["n", "width"])
    order, kind, values, out, member = arrays(
        [
            *ints("order", "kind"),
            *[(name, (None, None), dtype) for name in ("values", "out")],
            *flags("member"),
        ]
    )

    def move(i: Expr, p: Expr) -> None:
        v = hold(at(order, i))
        with loop(width) as j:
            T.buffer_store(out, values[v, j], [p, j])

    with_rows(n, kind, member, move)


def with_rows(n: Expr, kind: Buffer, member: Buffer, emit: Callable[[Expr, Expr], None]) -> None:
    """`emit(row of the plan, row of the space)` for every row of the space."""
    place = Counter()
    with loop(n) as i, T.If(at(member, at(kind, i)) > 0), T.Then():
        emit(i, hold(place.value))
        place.add()


def edges() -> None:
    """For every row, the slots it fills: CSR of `parent's row among the edges * arity + slot`.

    A child's edges are in the order of its parents' rows, so that sums are the same however the
    batch was put together. `next` is room for n.
    """
    n, arity = scalars(["n", "arity"])
    kind, rows, pointers, slot_of, cursor, member = arrays(
        [*ints("kind", "below", "pointers", "slots", "next"), *flags("member")]
    )
    with loop(n) as i:
        put(cursor, i, 0)

    def each(emit: Callable[[Expr, Expr], None]) -> None:
        def slot(i: Expr, p: Expr) -> None:
            with loop(arity) as k:
                c = hold(at(rows, i * arity + k))
                when(c >= 0, lambda: emit(c, p * arity + k))

        with_rows(n, kind, member, slot)

    each(lambda c, _: put(cursor, c, at(cursor, c) + 1))
    starts(n, lambda i: i, cursor, pointers)

    def fill(c: Expr, edge: Expr) -> None:
        to = hold(at(cursor, c))
        put(slot_of, to, edge)
        put(cursor, c, to + 1)

    each(fill)


def starts(n: Expr, key: Callable[[Expr], Expr], count: Buffer, pointers: Buffer) -> None:
    """pointers[j] = counts of key(0) ... key(j - 1) added up, for j up to n; counts become them."""
    total = Counter()
    with loop(n) as j:
        size = hold(at(count, key(j)))
        put(pointers, j, total.value)
        put(count, key(j), total.value)
        total.add(size)
    put(pointers, n, total.value)


def group() -> None:
    """Group equal integers: distinct ones, in the order in which they come; CSR of positions.

    Those below 0 belong to no group. `count` has an entry for every value, all zero before and
    after. result = (number of groups,).
    """
    (n,) = scalars(["n"])
    values, distinct, pointers, positions, count, result = arrays(
        [*ints("values", "distinct", "pointers", "positions", "count"), *longs("result")]
    )
    groups = Counter()
    with loop(n) as i:
        u = hold(at(values, i))

        def fresh() -> None:
            put(distinct, groups.value, u)
            groups.add()

        def add() -> None:
            when(at(count, u) < 1, fresh)
            put(count, u, at(count, u) + 1)

        when(u >= 0, add)
    m = hold(groups.value)
    starts(m, lambda j: at(distinct, j), count, pointers)
    with loop(n) as i:
        u = hold(at(values, i))

        def place() -> None:
            put(positions, _next(count, u), i)

        when(u >= 0, place)
    with loop(m) as j:
        put(count, at(distinct, j), 0)
    put(result, 0, m)


KERNELS: dict[str, Callable[[], None]] = {
    "slots": slots,
    "pull": pull,
    "sort": sort,
    "below": below,
    "child": child,
    "take": take,
    "take_present": take_present,
    "take_rows": take_rows,
    "take_integers": partial(take_rows, "int32"),
    "edges": edges,
    "group": group,
}
