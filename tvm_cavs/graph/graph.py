"""Children lists, parents, edges or sequences -> Graph: one instance graph, or a batch of them.

The one idea: a graph is flat arrays (CSR over child slots), so a batch of graphs is again a Graph
and making it is concatenation. Levels are found once, when a graph is made; a batch keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from dataclasses import field as of_dataclass
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import GraphError
from ..given import as_list, check_numbered, count, indices, pairs
from .field import Field, make_field
from .levels import (
    FEW,
    check_children,
    check_levels,
    check_pointers,
    levels_or_cycle,
    one_by_one,
    pointers,
    steps,
)

SPLIT = "Make several graphs of it, and give them in several batches."


@dataclass(eq=False)
class Memo:
    """What a graph remembers of its making, to save work; it is no part of the graph's meaning.

    Attributes:
        forest: where its vertices are rows `rows` of a forest.
        number: of one example of the forest.
        fields: the inputs, in the dict itself: a read-only mapping is slower to read.
        parts: the graphs that were concatenated to make it, where they were.
        digests: found by digests.py, for each set of input names.
    """

    forest: Forest | None = None
    rows: slice | np.ndarray = of_dataclass(default_factory=lambda: slice(0, 0))
    number: int = -1
    fields: Mapping[str, Field] = of_dataclass(default_factory=dict)
    parts: tuple[Graph, ...] = ()
    digests: dict[tuple[str, ...], np.ndarray] = of_dataclass(default_factory=dict)

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        """A stored graph forgets: it would be stored with its whole forest."""
        return Memo, ()


@dataclass(frozen=True, eq=False)
class Forest:
    """A graph of many examples, and where each of them begins in its arrays.

    Attributes:
        first_vertex, n_vertices, first_slot, n_slots: int64[n_graphs].
        has_empty: whether a slot of any vertex is empty.
        has_unnamed: whether any vertex has no identity of its own.
    """

    graph: Graph
    first_vertex: np.ndarray
    n_vertices: np.ndarray
    first_slot: np.ndarray
    n_slots: np.ndarray
    has_empty: bool
    has_unnamed: bool

    @staticmethod
    def of(graph: Graph) -> Forest:
        """The forest of a graph's examples."""
        vertices = graph.graph_ptr.astype(np.int64)
        slots = graph.child_ptr[graph.graph_ptr].astype(np.int64)
        return Forest(
            graph,
            vertices[:-1],
            steps(vertices),
            slots[:-1],
            steps(slots),
            bool((graph.child < 0).any()),
            bool((graph.vertex_id < 0).any()),
        )


def by_place(ids: np.ndarray) -> np.ndarray:
    """The identities int64[n_vertices] of a batch, with -1 - place where they are below 0."""
    if not len(ids) or ids.min() >= 0:
        return ids
    places = np.arange(-1, -1 - len(ids), -1)
    return places if ids.max() < 0 else np.where(ids < 0, places, ids)


FROM_LISTS = "Lists of the children of every vertex go to Graph.from_children(children, inputs)."
NO_SLOTS: Any = ()
FOUND: Any = None
NO_INPUTS: Mapping[str, Any] = MappingProxyType({})
Pairs = Sequence[tuple[int, int]] | np.ndarray


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph of vertices whose children fill numbered slots.

    A child may have several parents, and may fill several slots of one parent. What a graph is made
    of is copied and checked, by the constructors below and by `Graph(...)` itself; its arrays and
    the mapping of its inputs are read-only, so it stays what was checked. Another graph with other
    inputs comes from `with_inputs` or `dataclasses.replace`. Levels, identities and examples that
    are not given are found: one example, whose vertices have no identity of their own.

    Attributes:
        child_ptr: int32[n_vertices + 1]; the slots of vertex v are child_ptr[v]:child_ptr[v + 1].
        child: int32[n_slots]; a vertex of the same example, or -1 where the slot is empty.
        level: int32[n_vertices]; 0 without children, else 1 + the largest level of a child.
        vertex_id: int64[n_vertices]; identity of a vertex, kept by batching (dropout uses it).
            Below 0: none of its own, then it is -1 - the vertex's place in its batch.
        graph_ptr: int32[n_graphs + 1]; the vertices of example g are graph_ptr[g]:graph_ptr[g + 1].
        inputs: one Field a name.
        memo: what is remembered of its making, so that batches are made faster.

    Raises:
        GraphError: as `Graph.from_csr`, or a level is wrong.

    Examples:
        >>> import tvm_cavs as cavs
        >>> graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [7, 2, None]})
        >>> print(graph)
        Graph(1 graphs, 3 vertices, 2 edges, levels 0..1, arity 2; word: int32 at 2 of 3)
        >>> print(graph.level, graph.roots)
        [0 0 1] [False False  True]
    """

    child_ptr: np.ndarray
    child: np.ndarray = NO_SLOTS
    level: np.ndarray = FOUND
    vertex_id: np.ndarray = FOUND
    graph_ptr: np.ndarray = FOUND
    inputs: Mapping[str, Field] = of_dataclass(default_factory=dict)
    memo: Memo = of_dataclass(default_factory=Memo, init=False, repr=False)

    def __post_init__(self) -> None:
        rows = self.child_ptr
        if isinstance(rows, list | tuple) and any(isinstance(row, list | tuple) for row in rows):
            raise GraphError(
                "Graph(child_ptr, child, ...): expected where the slots of every vertex begin "
                f"(integers), given a list of lists. {FROM_LISTS}"
            )
        if isinstance(self.child, Mapping):
            raise GraphError(
                "Graph(child_ptr, child, ...): expected the vertices in all slots (integers), "
                f"given {type(self.child).__name__}. {FROM_LISTS}"
            )
        given = self.child_ptr, self.child, self.inputs, self.graph_ptr, self.vertex_id, self.level
        self.__dict__.update(vars(made_graph(**_checked(*given))))

    def __reduce__(self) -> tuple[Callable[..., Graph], tuple[Any, ...]]:
        """A copy is read-only too. It forgets its memo, as it would take its forest along."""
        arrays = self.child_ptr, self.child, self.level, self.vertex_id, self.graph_ptr
        return made_graph, (*arrays, dict(self.inputs))

    def with_inputs(self, inputs: Mapping[str, Any]) -> Graph:
        """The same graph with these inputs instead of its own.

        Raises:
            GraphError: as `Graph.from_csr`.
        """
        arrays = self.child_ptr, self.child, self.level, self.vertex_id, self.graph_ptr
        return made_graph(*arrays, _fields(inputs, self.n_vertices))

    @property
    def n_vertices(self) -> int:
        """Vertices of all examples together."""
        return len(self.level)

    @property
    def n_graphs(self) -> int:
        """Examples in this batch; 1 for a graph that is none."""
        return len(self.graph_ptr) - 1

    @property
    def n_edges(self) -> int:
        """Slots that hold a child."""
        return int(np.count_nonzero(self.child >= 0))

    @cached_property
    def arity(self) -> int:
        """The most slots of any vertex, empty ones included."""
        return int((self.child_ptr[1:] - self.child_ptr[:-1]).max())

    @cached_property
    def n_levels(self) -> int:
        """One more than the largest level."""
        return int(self.level.max()) + 1

    @property
    def roots(self) -> np.ndarray:
        """bool[n_vertices]: vertices that are nobody's child."""
        is_root = np.ones(self.n_vertices, bool)
        is_root[self.child[self.child >= 0]] = False
        return is_root

    def __repr__(self) -> str:
        inputs = "; ".join(f"{name}: {field}" for name, field in self.inputs.items())
        return (
            f"Graph({self.n_graphs} graphs, {self.n_vertices} vertices, {self.n_edges} edges, "
            f"levels 0..{self.n_levels - 1}, arity {self.arity}; {inputs or 'no inputs'})"
        )

    @staticmethod
    def from_children(
        children: Sequence[Sequence[int | None]],
        inputs: Mapping[str, Any] = NO_INPUTS,
        vertex_id: Sequence[int] | np.ndarray | None = None,
    ) -> Graph:
        """One graph from the children of every vertex, in slot order; None or -1 is an empty slot.

        Raises:
            GraphError: as `Graph.from_csr`.

        Examples:
            Vertex 0 has two parents; the second slot of vertex 2 is empty.

            >>> import tvm_cavs as cavs
            >>> graph = cavs.Graph.from_children([[], [0], [0, None, 1]])
            >>> print(graph.child_ptr, graph.child)
            [0 0 1 4] [ 0  0 -1  1]
        """
        vertices = as_list("children", children, "lists")
        if not {type(slots) for slots in vertices} <= {list, tuple}:
            vertices = [
                as_list(f"children of vertex {v}", slots, "vertices ([] for a leaf)")
                for v, slots in enumerate(vertices)
            ]
        child_ptr = pointers([len(slots) for slots in vertices])
        child = [-1 if c is None else c for slots in vertices for c in slots]
        return Graph.from_csr(child_ptr, indices("children", child), inputs, vertex_id=vertex_id)

    @staticmethod
    def from_parents(
        parents: Sequence[int] | np.ndarray, inputs: Mapping[str, Any] = NO_INPUTS, root: int = -1
    ) -> Graph:
        """One tree or forest from the parent of every vertex; `root` marks a vertex without one.

        The children of a vertex fill its slots in index order.

        Raises:
            GraphError: a parent out of range, a `root` that is the number of a vertex, or as
                `Graph.from_csr`.

        Examples:
            >>> import tvm_cavs as cavs
            >>> print(cavs.Graph.from_parents([2, 2, -1]))
            Graph(1 graphs, 3 vertices, 2 edges, levels 0..1, arity 2; no inputs)
        """
        parent = indices("parents", parents)
        root = int(indices("root", [root])[0])
        if 0 <= root < len(parent):
            raise GraphError(
                f"root={root} is the number of a vertex too (they are 0..{len(parent) - 1}), so a "
                "parent has two meanings. Mark a root by -1; if parents count from 1 and 0 is a "
                "root, subtract 1 from all."
            )
        child = np.flatnonzero(parent != root)
        return Graph.from_edges(len(parent), np.stack([parent[child], child], axis=1), inputs)

    @staticmethod
    def from_sequence(length: int, inputs: Mapping[str, Any] = NO_INPUTS) -> Graph:
        """A chain: the only child of vertex i is vertex i - 1, vertex 0 has none.

        Raises:
            GraphError: length below 1, or as `Graph.from_csr`.

        Examples:
            >>> import tvm_cavs as cavs
            >>> print(cavs.Graph.from_sequence(4, {"word": [5, 1, 1, 3]}).level)
            [0 1 2 3]
        """
        length = count("length", length, least=1)
        child_ptr = np.maximum(np.arange(-1, length), 0)
        level = np.arange(length, dtype=np.int32)
        return _finish(child_ptr, np.arange(length - 1), inputs, level=level)

    @staticmethod
    def from_edges(
        n_vertices: int,
        edges: Pairs,
        inputs: Mapping[str, Any] = NO_INPUTS,
    ) -> Graph:
        """One graph from (parent, child) pairs; a parent's edges fill its slots in the order given.

        Args:
            edges: a list of pairs, or int[n_edges, 2].

        Raises:
            GraphError: another shape, a parent out of range, or as `Graph.from_csr`.

        Examples:
            Vertex 1 is in the first slot of vertex 2.

            >>> import tvm_cavs as cavs
            >>> print(cavs.Graph.from_edges(3, [(2, 1), (2, 0)]).child)
            [1 0]
        """
        n_vertices, given = count("n_vertices", n_vertices, least=1), pairs("edges", edges)
        parent, child = given[:, 0], given[:, 1]
        wrong = np.flatnonzero((parent < 0) | (parent >= n_vertices))
        if wrong.size:
            p, c = given[wrong[0]]
            raise GraphError(
                f"vertex {c}: its parent {p} is out of range; expected 0..{n_vertices - 1}. "
                "Are the indices 0-based, and is a root marked as one?"
            )
        child_ptr = np.zeros(n_vertices + 1, np.int64)
        np.cumsum(np.bincount(parent, minlength=n_vertices), out=child_ptr[1:])
        return Graph.from_csr(child_ptr, child[np.argsort(parent, kind="stable")], inputs)

    @staticmethod
    def from_csr(
        child_ptr: np.ndarray,
        child: np.ndarray,
        inputs: Mapping[str, Any] = NO_INPUTS,
        graph_ptr: np.ndarray | None = None,
        vertex_id: Sequence[int] | np.ndarray | None = None,
    ) -> Graph:
        """One graph, or with graph_ptr many at once, from flat arrays (see the attributes).

        An input is a list (None where absent), an array (present everywhere) or a Field. Without
        vertex_id, vertices have no identity of their own: dropout goes by their place in a batch.

        Raises:
            GraphError: an empty graph, a child out of range, a self-loop, a cycle, an input whose
                length is not the number of vertices, or what are no integers. The message names
                the vertex.

        Examples:
            >>> import tvm_cavs as cavs
            >>> print(cavs.Graph.from_csr([0, 0, 0, 2], [0, 1]).level)
            [0 0 1]
        """
        return _finish(child_ptr, child, inputs, graph_ptr, vertex_id)


def made_graph(
    child_ptr: np.ndarray,
    child: np.ndarray,
    level: np.ndarray,
    vertex_id: np.ndarray,
    graph_ptr: np.ndarray,
    inputs: Mapping[str, Field],
) -> Graph:
    """A Graph of arrays that keep the promises of its docstring and are nobody else's.

    They are neither copied nor checked, and become read-only.
    """
    graph = object.__new__(Graph)
    held = graph.__dict__
    held["child_ptr"], held["child"], held["level"] = child_ptr, child, level
    held["vertex_id"], held["graph_ptr"] = vertex_id, graph_ptr
    held["inputs"], held["memo"] = MappingProxyType(inputs), Memo(fields=inputs)
    for array in (child_ptr, child, level, vertex_id, graph_ptr):
        array.setflags(write=False)
    return graph


def small_graph(n_slots: Sequence[int], child: Sequence[int], inputs: Any) -> Graph | None:
    """One graph whose vertices are numbered from 0, in a third of the time of `Graph.from_csr`.

    Args:
        n_slots: of every vertex. child: integers, those of all slots.

    Returns:
        None where it is not small, or something is wrong with it; from_csr says what.

    Raises:
        GraphError: as `from_csr`, of inputs.
    """
    n = len(n_slots)
    if not 1 <= n < FEW or any(not -1 <= c < n for c in child):
        return None
    child_ptr = [0, *accumulate(n_slots)]
    if child_ptr[-1] != len(child) or min(n_slots) < 0:
        return None
    level, waiting = one_by_one(child_ptr, list(child))
    if any(waiting):
        return None
    return made_graph(
        np.array(child_ptr, np.int32),
        np.array(child, np.int32),
        np.array(level, np.int32),
        np.arange(n),
        np.array([0, n], np.int32),
        _fields(inputs, n),
    )


def check(graph: Graph) -> None:
    """Check every promise of Graph's docstring.

    Raises:
        GraphError: the first one that does not hold.
    """
    given = graph.child_ptr, graph.child, graph.inputs, graph.graph_ptr, graph.vertex_id
    _checked(*given, graph.level)


def _finish(
    child_ptr: Any,
    child: Any,
    inputs: Mapping[str, Any],
    graph_ptr: Any = None,
    vertex_id: Any = None,
    level: np.ndarray | None = None,
) -> Graph:
    """Every constructor ends here: copies, checks, levels."""
    return made_graph(**_checked(child_ptr, child, inputs, graph_ptr, vertex_id, level))


def _checked(
    child_ptr: Any, child: Any, inputs: Any, graph_ptr: Any, vertex_id: Any, level: Any
) -> dict[str, Any]:
    """The fields of a Graph by name, of our own, all promises checked; None for what is found."""
    for what, given, last in (("vertices", child_ptr, 1), ("slots for children", child, 0)):
        if isinstance(given, Sized) and getattr(given, "shape", None) != ():  # before any copy
            check_numbered(f"{what} of a graph", len(given) - last, SPLIT)
    child_ptr, child = indices("child_ptr", child_ptr), indices("child", child)
    n = count("the number of vertices", max(0, len(child_ptr) - 1))
    graph_ptr = indices("graph_ptr", [0, n] if graph_ptr is None else graph_ptr)
    check_pointers(child_ptr, child, graph_ptr)
    check_children(child_ptr, child, graph_ptr)
    child_ptr, child, graph_ptr = (a.astype(np.int32) for a in (child_ptr, child, graph_ptr))
    if level is None:
        level = levels_or_cycle(child_ptr, child, graph_ptr)
    else:
        level = indices("level", level).astype(np.int32)
        check_levels(child_ptr, child, graph_ptr, level)
    vertex_id = np.full(n, -1) if vertex_id is None else indices("vertex_id", vertex_id)
    if len(vertex_id) != n:
        raise GraphError(f"vertex_id has {len(vertex_id)} entries; expected {n}, one a vertex.")
    return {
        "child_ptr": child_ptr,
        "child": child,
        "level": level,
        "vertex_id": by_place(vertex_id),
        "graph_ptr": graph_ptr,
        "inputs": _fields(inputs, n),
    }


def _fields(inputs: Any, n: int) -> dict[str, Field]:
    """The inputs of n vertices as Fields."""
    if not isinstance(inputs, Mapping) or not all(k and isinstance(k, str) for k in inputs):
        raise GraphError(
            "inputs: expected a mapping of names to lists or arrays, such as "
            f'{{"word": [1, 2]}}, given {inputs!r:.60}.'
        )
    fields = {str(name): make_field(name, given) for name, given in inputs.items()}
    for name, field in fields.items():
        if len(field.values) != n or len(field.present) != n:
            raise GraphError(
                f"input {name!r} has {len(field.values)} rows; expected one per vertex: {n}. "
                "Put None where a vertex has no such input."
            )
    return fields
