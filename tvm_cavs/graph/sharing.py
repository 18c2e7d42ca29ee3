"""A batch -> the same computation with equal subgraphs once: Graph -> Shared.

Two vertices are equal when the inputs that a program reads are equal, bit by bit, and their slots
hold equal vertices; then they compute the same, whichever example they are in. Candidates are
found by one sort of a 64-bit digest of every vertex's subgraph, which is computed once per data
set. No result rests on digests: every vertex is compared with the one that stands for it, and as
their children are in the same classes slot by slot, induction over levels makes that a proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .digests import Names, bits_of, find_digests
from .field import Field, made_field
from .graph import Graph, made_graph
from .levels import ranges

COPIES = "tvm_cavs.copies"  # the input that says how many vertices one stands for
Digests = Callable[[Graph, Names], np.ndarray]


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


@dataclass(frozen=True)
class Policy:
    """What makes two vertices equal for a program, and when equal ones are worth a look.

    Attributes:
        names: the inputs that are compared.
        least: of the vertices, the part that must be saved.
        per_level: how many vertices a batch must have for each of its levels.
    """

    names: Names
    least: float = 0.0
    per_level: int = 0

    def share(self, graph: Graph) -> Shared | None:
        """As `share`, or None where it would save too little: then the graph is run as it is.

        The graph alone decides, so that a batch is always run in the same way.
        """
        if self.per_level and graph.n_vertices < self.per_level * graph.n_levels:
            return None
        return share(graph, self.names, self.least)


def with_copies(graph: Graph, copies: np.ndarray | None = None) -> Graph:
    """The graph with the input COPIES: float32[n_vertices], 1 where not given."""
    if copies is None:
        copies = np.ones(graph.n_vertices, np.float32)
    field = made_field(copies, np.ones(len(copies), bool))
    return graph.with_inputs({**graph.inputs, COPIES: field})


def share(
    graph: Graph, names: Names, least: float = 0.0, digests: Digests = find_digests
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
    widths = graph.child_ptr[1:] - graph.child_ptr[:-1]
    others = (~is_first).nonzero()[0]
    theirs = first.take(others)
    if not all(_same_input(graph.inputs[name], others, theirs) for name in names):
        return None
    if not _same_slots(graph.child_ptr, widths, below, others, theirs):
        return None
    kept = is_first.nonzero()[0]
    child_ptr = np.zeros(len(kept) + 1, np.int32)
    widths.take(kept).cumsum(out=child_ptr[1:])
    fields = {name: graph.inputs[name] for name in names}
    joined = made_graph(
        child_ptr,
        below[is_first.repeat(widths)],
        graph.level.take(kept),
        graph.vertex_id.take(kept),
        np.array([0, len(kept)], np.int32),
        {
            k: made_field(f.values.take(kept, axis=0), f.present.take(kept))
            for k, f in fields.items()
        },
    )
    return Shared(joined, of, np.bincount(of, minlength=len(kept)).astype(np.float32))


def _same_slots(
    start: np.ndarray, widths: np.ndarray, below: np.ndarray, a: np.ndarray, b: np.ndarray
) -> bool:
    """Whether vertices `a` have as many slots as `b`, with the same classes `below` in each."""
    width = widths.take(a)
    if (width != widths.take(b)).any():
        return False
    inner = width.nonzero()[0]
    a, width = a.take(inner), width.take(inner)
    first = start.take(a)
    slots = ranges(first, width)
    moved = slots + (start.take(b.take(inner)) - first).repeat(width)
    return bool((below.take(slots) == below.take(moved)).all())


def _same_input(field: Field, a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an input is the same at the vertices `a` as at `b`, bit by bit."""
    bits, present = bits_of(field.values), field.present.take(a)
    if (present != field.present.take(b)).any():
        return False
    differs = bits.take(a, axis=0) != bits.take(b, axis=0)
    return not (differs.T & present).any()


def first_of_class(graph: Graph, names: Names) -> np.ndarray:
    """int32[n_vertices]: the first vertex equal to each, found exactly, level by level.

    Slower than digests, and needed only where two of them collide.
    """
    widths = np.diff(graph.child_ptr)
    own = widths.astype(np.int64)
    for name in names:
        field = graph.inputs[name]
        bits = bits_of(field.values).reshape(graph.n_vertices, -1)
        bits = np.where(field.present[:, None], bits, 0)
        values = np.unique(bits, axis=0, return_inverse=True)[1].reshape(-1)
        own = _pair(own, 2 * values + field.present)
    found = np.full(graph.n_vertices + 1, -1, np.int64)  # an empty slot (-1) reads the last
    n_found = 0
    for level in range(graph.n_levels):
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
