"""Plan: which rows of a batch run together, and where every value lives.

A batch's vertices are sorted by (level, kind), so that the vertices of one kind on one level are a
contiguous slice of every packed buffer: scatter and push need no copy. A value that only some kinds
have lives in its own compact rows, a *space*, in the same order. Everything is vectorised NumPy on
flat arrays; nothing is done per vertex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .errors import GraphError
from .graph import Graph
from .rewrite import Kind

SMALL_MASK = 1 << 16
MASK_BITS = 62


@dataclass(frozen=True)
class Space:
    """Rows of a buffer: those of the vertices of some kinds, in plan order.

    what: "all" vertices; "state", all after a first row of zeros (what an absent child reads);
    "edges", vertices with a child; "slot" / "pull", vertices with that slot or input; "save", the
    kinds that save the value; "scratch", rows of the segment that is running.
    """

    what: str
    key: str | int = ""

    @property
    def base(self) -> int:
        return 1 if self.what == "state" else 0


@dataclass(frozen=True)
class Cells:
    """The (level, kind) groups of a batch in row order; arrays of one length.

    level, kind: int64[n_cells]; count: vertices in each.
    """

    level: np.ndarray
    kind: np.ndarray
    count: np.ndarray

    def starts(self, member: np.ndarray, base: int = 0) -> np.ndarray:
        """First row of every cell in the space of the kinds in `member`: int64[n_cells]."""
        sizes = np.where(member[self.kind], self.count, 0)
        return np.cumsum(sizes) - sizes + base

    def rows(self, member: np.ndarray) -> int:
        """Rows of that space."""
        return int(self.count[member[self.kind]].sum())


@dataclass(frozen=True)
class Plan:
    """The rows of one batch.

    order: int64[n], the vertex of each row; row: int32[n], the row of each vertex; kind_of_row:
    int64[n]; children: int32[n, arity], the child's row or -1, by row; cells: the groups in row
    order.
    """

    graph: Graph
    order: np.ndarray
    row: np.ndarray
    kind_of_row: np.ndarray
    children: np.ndarray
    cells: Cells

    @property
    def n_rows(self) -> int:
        return len(self.order)

    @property
    def n_levels(self) -> int:
        return int(self.cells.level[-1]) + 1

    def __str__(self) -> str:
        lines = [
            f"plan: {self.n_rows} vertices, {self.n_levels} levels, {len(self.cells.count)} groups"
        ]
        for level, kind, count in zip(
            self.cells.level, self.cells.kind, self.cells.count, strict=True
        ):
            lines.append(f"  level {level:3d}  kind {kind:2d}  {count:6d} vertices")
        return "\n".join(lines)


def masks(graph: Graph, arity: int, pulls: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What every vertex has, int64[n] bits: slots, then pulls; and int32[n, arity] children or -1.

    Raises:
        GraphError: more slots and inputs than an int64 has bits.
    """
    if arity + len(pulls) > MASK_BITS:
        raise GraphError(
            f"{arity} slots and {len(pulls)} inputs: expected at most {MASK_BITS} together; "
            "binarise the graphs, or join inputs that are always present together into one vector"
        )
    first = graph.child_ptr[:-1, None]
    at = first + np.arange(arity, dtype=graph.child_ptr.dtype)
    children = np.full((graph.n_vertices, arity), -1, "int32")
    valid = at < graph.child_ptr[1:, None]
    children[valid] = graph.child[at[valid]]
    bits = (children >= 0) @ (1 << np.arange(arity))
    for j, name in enumerate(pulls):
        bits = bits + (graph.inputs[name].present.astype("int64") << (arity + j))
    return bits, children


def kind_of(mask: int, arity: int, pulls: Sequence[str]) -> Kind:
    """The Kind that the bits of a mask stand for."""
    slots = tuple(k for k in range(arity) if mask >> k & 1)
    return Kind(slots, tuple(name for j, name in enumerate(pulls) if mask >> (arity + j) & 1))


def plan(
    graph: Graph,
    arity: int,
    pulls: Sequence[str],
    kinds: Callable[[Sequence[int]], Mapping[int, int]],
    rank: Callable[[], np.ndarray],
) -> Plan:
    """Sort the batch's vertices into rows.

    Args:
        kinds: distinct masks -> mask to kind number (new kinds are added by it).
        rank: afterwards, int64[n_kinds], the order of kinds within a level.
    """
    bits, children = masks(graph, arity, pulls)
    small = arity + len(pulls) <= 16
    distinct = np.flatnonzero(np.bincount(bits, minlength=1)) if small else np.unique(bits)
    table = kinds(distinct.tolist())
    if small:
        lookup = np.zeros(int(distinct[-1]) + 1, "int64")
        lookup[distinct] = [table[int(m)] for m in distinct]
        kind = lookup[bits]
    else:
        kind = np.array([table[int(m)] for m in distinct])[np.searchsorted(distinct, bits)]
    ranks = rank()
    n_kinds = len(ranks)
    key = graph.level.astype("int64") * n_kinds + ranks[kind]
    order = stable_order(key)
    row = np.empty(len(order), "int32")
    row[order] = np.arange(len(order), dtype="int32")
    counts = np.bincount(key)
    used = np.flatnonzero(counts)
    by_rank = np.argsort(ranks)
    cells = Cells(used // n_kinds, by_rank[used % n_kinds], counts[used])
    ordered = children[order]
    below = np.where(ordered >= 0, row[ordered], np.int32(-1))
    return Plan(graph, order, row, kind[order], below, cells)


def stable_order(key: np.ndarray) -> np.ndarray:
    """Stable argsort of small non-negative integers (NumPy sorts 16-bit keys by radix)."""
    if len(key) and key.max() < SMALL_MASK:
        key = key.astype("uint16")
    return np.argsort(key, kind="stable")


@dataclass(frozen=True)
class Segments:
    """Slices on which one stage function runs: int64[n_segments] each, a start for each space."""

    level: np.ndarray
    count: np.ndarray
    starts: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Cut:
    """How cells join into slices; it depends on the order of kinds and levels, not on counts.

    at: int64[n], the cells; heads: int64[n_segments], the positions in `at` where a slice begins.
    """

    at: np.ndarray
    heads: np.ndarray

    def segments(self, cells: Cells, starts: Sequence[np.ndarray]) -> Segments:
        """The slices of these cells, with their first row in every space."""
        first = self.at[self.heads]
        count = cells.count[self.at]
        total = np.add.reduceat(count, self.heads) if len(self.at) else count
        return Segments(cells.level[first], total, tuple(s[first] for s in starts))


def cut(cells: Cells, member: np.ndarray, starts: Sequence[np.ndarray], by_level: bool) -> Cut:
    """The longest slices, contiguous in every space, of the cells whose kind is a member.

    With `by_level` a slice stays within one level, as a recurrent stage must.
    """
    at = np.flatnonzero(member[cells.kind])
    count, level = cells.count[at], cells.level[at]
    joins = np.ones(max(len(at) - 1, 0), bool)
    for s in starts:
        joins &= s[at][1:] == s[at][:-1] + count[:-1]
    if by_level:
        joins &= level[1:] == level[:-1]
    return Cut(at, np.flatnonzero(np.concatenate([np.ones(min(len(at), 1), bool), ~joins])))


def segments(
    cells: Cells, member: np.ndarray, starts: Sequence[np.ndarray], by_level: bool
) -> Segments:
    """The slices that `cut` finds."""
    return cut(cells, member, starts, by_level).segments(cells, starts)


def parent_edges(plan: Plan, has_slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row, the slots it fills: CSR of `parent's row among the edges * arity + slot`.

    Shapes: has_slot bool[n_kinds] -> pointers int32[n + 1], edges int32[n_edges]. A child's edges
    are in the order of its parents' rows, so sums are the same however the batch is put together.
    """
    below = plan.children[has_slot[plan.kind_of_row]].ravel()
    slots = np.flatnonzero(below >= 0)
    child = below[slots]
    order = stable_order(child)
    pointers = np.zeros(plan.n_rows + 1, "int32")
    np.cumsum(np.bincount(child, minlength=plan.n_rows), out=pointers[1:])
    return pointers, slots[order].astype("int32")


def rows_by_value(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group equal integers: distinct int32[m], ascending; CSR pointers and positions int32[n]."""
    order = stable_order(values)
    ordered = values[order]
    heads = np.flatnonzero(
        np.concatenate([np.ones(min(len(values), 1), bool), ordered[1:] != ordered[:-1]])
    )
    pointers = np.append(heads, len(values)).astype("int32")
    return ordered[heads].astype("int32"), pointers, order.astype("int32")
