"""A batch -> the same computation with equal subgraphs once: Graph -> Shared.

Two vertices are equal when the inputs that a program reads are equal, bit by bit, and their slots
hold equal vertices; then they compute the same, whichever example they are in. Candidates are
found by one sort of a 64-bit digest of every vertex's subgraph, which is computed once per data
set. No result rests on digests: every vertex is compared with the one that stands for it, and as
their children are in the same classes slot by slot, induction over levels makes that a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .field import Field
from .graph import Graph
from .levels import ranges

COPIES = "tvm_cavs.copies"  # the input that says how many vertices one stands for
LEAST_SAVED = 0.05  # of the vertices; sharing less costs more than it saves
LEAST_PER_LEVEL = 8  # vertices on a level, on average; finding digests is a pass over levels

Names = tuple[str, ...]
Digests = Callable[[Graph, Names], np.ndarray]
_EMPTY = np.uint64(0x2545F4914F6CDD1D)
_ROUNDS = ((32, 0xD6E8FEB86659FD93), (29, 0x9E3779B97F4A7C15))


@dataclass(frozen=True, eq=False)
class Shared:
    """A graph with one vertex for each class of equal vertices of another.

    Attributes:
        graph: its vertices are in the order of the first of each class; one example, as vertices
            of several may have become one. Its inputs are those that were compared.
        of: int32[n_vertices of the original]; the vertex that stands for each.
        copies: float32[n_vertices of `graph`]; how many each stands for.
    """

    graph: Graph
    of: np.ndarray
    copies: np.ndarray

    @property
    def sharing(self) -> Sharing:
        """What it saves."""
        return Sharing(len(self.of), len(self.copies))

    def __str__(self) -> str:
        return str(self.sharing)


@dataclass(frozen=True)
class Sharing:
    """What sharing did for one batch: its `vertices`, and how many of them were computed."""

    vertices: int
    shared: int

    @property
    def share(self) -> float:
        """The part of the vertices that was computed."""
        return self.shared / self.vertices

    def __str__(self) -> str:
        return f"{self.shared} of {self.vertices} vertices computed ({self.share:.0%})"


def share_if_worth(graph: Graph, names: Names) -> Shared | None:
    """As `share`, or None where it would cost more time than it saves.

    That is decided by the graph alone, so that a batch is always run in the same way.
    """
    if graph.n_vertices < LEAST_PER_LEVEL * (1 + int(graph.level.max())):
        return None
    return share(graph, names, LEAST_SAVED)


def with_copies(graph: Graph, copies: np.ndarray | None = None) -> Graph:
    """The graph with the input COPIES: float32[n_vertices], 1 where not given."""
    if copies is None:
        copies = np.ones(graph.n_vertices, np.float32)
    field = Field(copies, np.ones(len(copies), bool))
    return replace(graph, inputs={**graph.inputs, COPIES: field})


def digests(graph: Graph, names: Names) -> np.ndarray:
    """uint64[n_vertices]: equal for equal vertices, almost surely different for others.

    They depend on nothing but a vertex's subgraph, so they are found once for the graphs that a
    batch is made of.
    """
    memo = graph.memo
    if names not in memo.digests:
        if memo.forest is not None:
            memo.digests[names] = digests(memo.forest.graph, names)[memo.rows]
        elif any(names not in part.memo.digests for part in memo.parts) or not memo.parts:
            memo.digests[names] = _find_digests(graph, names)
            ends = np.cumsum([part.n_vertices for part in memo.parts]).tolist()
            for part, end in zip(memo.parts, ends, strict=True):
                mine = memo.digests[names][end - part.n_vertices : end]
                part.memo.digests.setdefault(names, mine)
        else:
            found = [part.memo.digests[names] for part in memo.parts]
            memo.digests[names] = np.concatenate(found)
    return memo.digests[names]


def share(
    graph: Graph, names: Names, least: float = 0.0, digests: Digests = digests
) -> Shared | None:
    """Join equal vertices; None if not more than the part `least` of the vertices is saved.

    Inputs are equal if both are absent, or both are present with the same bits (so a NaN equals
    itself, and 0.0 does not equal -0.0). Inputs not in `names` do not matter.
    """
    n, found = graph.n_vertices, digests(graph, names)
    order = found.argsort()
    ordered = found.take(order)
    is_head = np.empty(n, bool)
    is_head[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=is_head[1:])
    heads = is_head.nonzero()[0]
    if len(heads) >= n * (1.0 - least):
        return None
    first = np.empty(n, np.int32)
    first[order] = np.minimum.reduceat(order, heads).astype(np.int32)[is_head.cumsum() - 1]
    shared = _join(graph, names, first)
    if shared is None:
        shared = _join(graph, names, first_of_class(graph, names))
        assert shared is not None, "classes found level by level are classes"
        if len(shared.copies) >= n * (1.0 - least):
            return None
    return shared


def _join(graph: Graph, names: Names, first: np.ndarray) -> Shared | None:
    """The graph of the first vertices of all classes; None if a class holds unequal vertices.

    Args:
        first: int32[n_vertices], the first vertex of the class of each.
    """
    is_first = first == np.arange(len(first), dtype=np.int32)
    of = (is_first.cumsum(dtype=np.int32) - np.int32(1)).take(first)
    below = np.append(of, np.int32(-1)).take(graph.child)  # an empty slot (-1) takes the last
    others = (~is_first).nonzero()[0]
    if not _are_equal(graph, names, below, others, first.take(others)):
        return None
    kept = is_first.nonzero()[0]
    start = graph.child_ptr.take(kept)
    width = graph.child_ptr.take(kept + 1) - start
    child_ptr = np.zeros(len(kept) + 1, np.int32)
    width.cumsum(out=child_ptr[1:])
    fields = {name: graph.inputs[name] for name in names}
    joined = Graph(
        child_ptr,
        below.take(ranges(start, width)),
        graph.level.take(kept),
        graph.vertex_id.take(kept),
        np.array([0, len(kept)], np.int32),
        {k: Field(f.values.take(kept, axis=0), f.present.take(kept)) for k, f in fields.items()},
    )
    return Shared(joined, of, np.bincount(of, minlength=len(kept)).astype(np.float32))


def _are_equal(graph: Graph, names: Names, below: np.ndarray, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether vertices `a` have the same inputs as `b`, and the same classes `below` by slot."""
    start_a, start_b = graph.child_ptr.take(a), graph.child_ptr.take(b)
    width = graph.child_ptr.take(a + 1) - start_a
    return (
        all(_same_input(graph.inputs[name], a, b) for name in names)
        and np.array_equal(width, graph.child_ptr.take(b + 1) - start_b)
        and np.array_equal(below.take(ranges(start_a, width)), below.take(ranges(start_b, width)))
    )


def _same_input(field: Field, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an input is the same at the vertices `a` as at `b`, bit by bit."""
    bits, present = _bits(field.values), field.present.take(a)
    if not np.array_equal(present, field.present.take(b)):
        return False
    differs = bits.take(a, axis=0) != bits.take(b, axis=0)
    return not (differs.T & present).any()


def _bits(values: np.ndarray) -> np.ndarray:
    """The bits of values of any dtype: unsigned[n], or unsigned[n, parts] of wide ones."""
    rows = np.ascontiguousarray(values).reshape(len(values), -1)
    whole = rows.dtype.itemsize % 4 == 0
    bits = rows.view(np.uint32 if whole else np.uint8)
    return bits[:, 0] if bits.shape[1] == 1 else bits


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint64[...] in place, one to one: every bit of the result depends on all."""
    for shift, factor in _ROUNDS:
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(32)
    return x


def _factors(n: int, of: int) -> np.ndarray:
    """Random odd numbers, uint64[n], the same always; different ones for each `of`."""
    return _mix(np.arange(1, n + 1, dtype=np.uint64) + np.uint64(of << 32)) | np.uint64(1)


def _find_digests(graph: Graph, names: Names) -> np.ndarray:
    """From the leaves up: a vertex's digest mixes its inputs and the digests in its slots."""
    widths = np.diff(graph.child_ptr)
    own = widths.astype(np.uint64)
    for j, name in enumerate(names):
        field = graph.inputs[name]
        bits = _bits(field.values).reshape(graph.n_vertices, -1).astype(np.uint64)
        factors = _factors(bits.shape[1], j + 1)
        value = (bits[:, 0] + factors[0]) * factors[0] if bits.shape[1] == 1 else bits @ factors
        own += _mix(value) * field.present
    found = np.append(_mix(own.copy()), _EMPTY)  # an empty slot (-1) reads the last
    order = np.argsort(graph.level, kind="stable")
    order = order[widths[order] > 0]
    width = widths[order].astype(np.int64)
    ends = width.cumsum()
    slots = ranges(graph.child_ptr[order], width)
    child = graph.child[slots]
    factors = _factors(int(width.max(initial=0)), 0)
    factor = factors[slots - graph.child_ptr[order].astype(np.int64).repeat(width)]
    bounds = np.searchsorted(graph.level[order], np.arange(int(graph.level.max()) + 2))
    first = np.append(ends - width, len(slots))
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        if a < b:
            s, t = int(first[a]), int(first[b])
            below = found[child[s:t]] * factor[s:t]
            vertices = order[a:b]
            found[vertices] = _mix(np.add.reduceat(below, first[a:b] - s) + own[vertices])
    return found[:-1]


def first_of_class(graph: Graph, names: Names) -> np.ndarray:
    """int32[n_vertices]: the first vertex equal to each, found exactly, level by level.

    Slower than digests, and needed only where two of them collide.
    """
    widths = np.diff(graph.child_ptr)
    own = widths.astype(np.int64)
    for name in names:
        field = graph.inputs[name]
        bits = _bits(field.values).reshape(graph.n_vertices, -1)
        bits = np.where(field.present[:, None], bits, 0)
        values = np.unique(bits, axis=0, return_inverse=True)[1].reshape(-1)
        own = _pair(own, 2 * values + field.present)
    found = np.full(graph.n_vertices + 1, -1, np.int64)  # an empty slot (-1) reads the last
    n_found = 0
    for level in range(int(graph.level.max()) + 1):
        vertices = np.flatnonzero(graph.level == level)
        key, width = own[vertices], widths[vertices]
        for slot in range(int(width.max())):
            at = np.minimum(graph.child_ptr[vertices] + slot, len(graph.child) - 1)
            key = _pair(key, np.where(slot < width, found[graph.child[at]] + 1, 0))
        classes = np.unique(key, return_inverse=True)[1]
        found[vertices] = n_found + classes
        n_found += int(classes.max()) + 1
    _, first, classes = np.unique(found[:-1], return_index=True, return_inverse=True)
    return first[classes].astype(np.int32)


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One number for each pair of numbers 0 or more: int64[n], below n."""
    return np.unique(a * (int(b.max(initial=0)) + 1) + b, return_inverse=True)[1]
