"""Children lists, parents, edges or sequences -> Graph: one instance graph, or a batch of them.

The one idea: a graph is flat arrays (CSR over child slots), so a batch of graphs is again a Graph
and making it is concatenation. Levels are found once, when a graph is made; a batch keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as of_dataclass
from typing import Any

import numpy as np

from tvm_cavs.errors import GraphError
from tvm_cavs.field import Field as Field
from tvm_cavs.field import make_field
from tvm_cavs.forest import Forest, Memo, common_forest, concatenate, select
from tvm_cavs.levels import check_children, check_pointers, levels_or_cycle, vertex_name

NO_INPUTS: Mapping[str, Any] = {}


@dataclass(frozen=True, eq=False)
class Graph:
    """A directed acyclic graph of vertices whose children fill numbered slots.

    A child may have several parents, and may fill several slots of one parent. Use a constructor
    below (they check) or call `check` on a Graph made by hand.

    Attributes:
        child_ptr: int32[n_vertices + 1]; the slots of vertex v are child_ptr[v]:child_ptr[v + 1].
        child: int32[n_slots]; a vertex of the same example, or -1 where the slot is empty.
        level: int32[n_vertices]; 0 without children, else 1 + the largest level of a child.
        vertex_id: int64[n_vertices]; identity of a vertex, kept by batching (dropout uses it).
        graph_ptr: int32[n_graphs + 1]; the vertices of example g are graph_ptr[g]:graph_ptr[g + 1].
        inputs: one Field a name.
        memo: what is remembered of its making, so that batches are made faster.
    """

    child_ptr: np.ndarray
    child: np.ndarray
    level: np.ndarray
    vertex_id: np.ndarray
    graph_ptr: np.ndarray
    inputs: Mapping[str, Field]
    memo: Memo = of_dataclass(default_factory=Memo, init=False, repr=False)

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

    @property
    def arity(self) -> int:
        """The most slots of any vertex, empty ones included."""
        return int(np.diff(self.child_ptr).max())

    @property
    def roots(self) -> np.ndarray:
        """bool[n_vertices]: vertices that are nobody's child."""
        is_root = np.ones(self.n_vertices, bool)
        is_root[self.child[self.child >= 0]] = False
        return is_root

    def __str__(self) -> str:
        inputs = "; ".join(f"{name}: {field}" for name, field in self.inputs.items())
        return (
            f"Graph({self.n_graphs} graphs, {self.n_vertices} vertices, {self.n_edges} edges, "
            f"levels 0..{int(self.level.max())}, arity {self.arity}; {inputs or 'no inputs'})"
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
        """
        child_ptr = np.zeros(len(children) + 1, np.int64)
        np.cumsum([len(slots) for slots in children], out=child_ptr[1:])
        child = [-1 if c is None else c for slots in children for c in slots]
        return Graph.from_csr(child_ptr, _indices("children", child), inputs, vertex_id=vertex_id)

    @staticmethod
    def from_parents(
        parents: Sequence[int] | np.ndarray, inputs: Mapping[str, Any] = NO_INPUTS, root: int = -1
    ) -> Graph:
        """One tree or forest from the parent of every vertex; `root` marks a vertex without one.

        The children of a vertex fill its slots in index order.

        Raises:
            GraphError: a parent out of range, or as `Graph.from_csr`.
        """
        parent = _indices("parents", parents)
        child = np.flatnonzero(parent != root)
        return Graph.from_edges(len(parent), np.stack([parent[child], child], axis=1), inputs)

    @staticmethod
    def from_sequence(length: int, inputs: Mapping[str, Any] = NO_INPUTS) -> Graph:
        """A chain: the only child of vertex i is vertex i - 1, vertex 0 has none.

        Raises:
            GraphError: length below 1, or as `Graph.from_csr`.
        """
        length = max(0, length)
        child_ptr = np.maximum(np.arange(-1, length), 0)
        level = np.arange(length, dtype=np.int32)
        return _finish(child_ptr, np.arange(length - 1), inputs, None, None, level)

    @staticmethod
    def from_edges(
        n_vertices: int,
        edges: Sequence[tuple[int, int]] | np.ndarray,
        inputs: Mapping[str, Any] = NO_INPUTS,
    ) -> Graph:
        """One graph from (parent, child) pairs; a parent's edges fill its slots in the order given.

        Raises:
            GraphError: a parent out of range, or as `Graph.from_csr`.
        """
        pairs = _indices("edges", edges).reshape(-1, 2)
        parent, child = pairs[:, 0], pairs[:, 1]
        wrong = np.flatnonzero((parent < 0) | (parent >= n_vertices))
        if wrong.size:
            p, c = pairs[wrong[0]]
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

        An input is a list (None where absent), an array (present everywhere) or a Field.

        Raises:
            GraphError: an empty graph, a child out of range, a self-loop, a cycle, an input whose
                length is not the number of vertices. The message names the vertex.
        """
        return _finish(child_ptr, child, inputs, graph_ptr, vertex_id, None)


def batch(graphs: Sequence[Graph]) -> Graph:
    """Concatenate graphs into one Graph, in the order given; vertex_id and level are kept.

    Raises:
        GraphError: no graphs, or an input whose dtype or shape differs between graphs.
    """
    if not graphs:
        raise GraphError("batch got no graphs; expected at least one.")
    if len(graphs) == 1:
        return graphs[0]
    forest = common_forest(graphs)
    if forest is not None:
        rows, arrays = select(forest, [g.memo.number for g in graphs])
        made = Graph(**arrays)
        made.memo.forest, made.memo.rows = forest, rows
        return made
    made = Graph(**concatenate(graphs))
    made.memo.parts = tuple(graphs)
    return made


def unbatch(graph: Graph) -> list[Graph]:
    """The examples of a batch, each a Graph of its own: the inverse of `batch` (views)."""
    first_vertex = graph.graph_ptr[:-1]
    n_slots = np.diff(graph.child_ptr[graph.graph_ptr])
    child = np.where(graph.child < 0, np.int32(-1), graph.child - np.repeat(first_vertex, n_slots))
    bounds = graph.graph_ptr.tolist()
    slots = graph.child_ptr[graph.graph_ptr].tolist()
    forest, examples = Forest.of(graph), []
    for g, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        inputs = {k: Field(f.values[a:b], f.present[a:b]) for k, f in graph.inputs.items()}
        example = Graph(
            graph.child_ptr[a : b + 1] - np.int32(slots[g]),
            child[slots[g] : slots[g + 1]],
            graph.level[a:b],
            graph.vertex_id[a:b],
            np.array([0, b - a], np.int32),
            inputs,
        )
        memo = example.memo
        memo.forest, memo.rows, memo.number = forest, slice(a, b), g
        memo.fields = tuple(inputs.values())
        examples.append(example)
    return examples


def check(graph: Graph) -> None:
    """Check every promise of Graph's docstring.

    Raises:
        GraphError: the first one that does not hold.
    """
    check_pointers(graph.child_ptr, graph.child, graph.graph_ptr)
    check_children(graph.child_ptr, graph.child, graph.graph_ptr)
    level = levels_or_cycle(graph.child_ptr, graph.child, graph.graph_ptr)
    wrong = np.flatnonzero(level != graph.level) if level.shape == graph.level.shape else [0]
    if len(wrong):
        where = vertex_name(graph.graph_ptr, int(wrong[0]))
        raise GraphError(f"{where}: the stored level is wrong. Make graphs with a constructor.")
    _check_lengths(graph)


def _finish(
    child_ptr: np.ndarray,
    child: np.ndarray,
    inputs: Mapping[str, Any],
    graph_ptr: np.ndarray | None,
    vertex_id: Sequence[int] | np.ndarray | None,
    level: np.ndarray | None,
) -> Graph:
    """Every constructor ends here: dtypes, checks, levels."""
    n_vertices = len(child_ptr) - 1
    graph_ptr = np.asarray([0, n_vertices] if graph_ptr is None else graph_ptr)
    check_pointers(child_ptr, child, graph_ptr)
    check_children(child_ptr, child, graph_ptr)
    child_ptr, child = np.asarray(child_ptr, np.int32), np.asarray(child, np.int32)
    graph_ptr = graph_ptr.astype(np.int32)
    graph = Graph(
        child_ptr,
        child,
        levels_or_cycle(child_ptr, child, graph_ptr) if level is None else level,
        np.arange(n_vertices) if vertex_id is None else np.array(vertex_id, np.int64),
        graph_ptr,
        {name: make_field(name, given) for name, given in inputs.items()},
    )
    _check_lengths(graph)
    return graph


def _check_lengths(graph: Graph) -> None:
    n = graph.n_vertices
    if graph.vertex_id.shape != (n,):
        raise GraphError(
            f"vertex_id has {graph.vertex_id.size} entries; expected {n}, one a vertex."
        )
    for name, field in graph.inputs.items():
        if len(field.values) != n or len(field.present) != n:
            raise GraphError(
                f"input {name!r} has {len(field.values)} rows; expected one per vertex: {n}. "
                "Put None where a vertex has no such input."
            )


def _indices(what: str, given: Any) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise GraphError(f"{what}: expected a list of vertex indices ({error}).") from error
    if array.size and array.dtype.kind not in "iu":
        raise GraphError(f"{what}: expected vertex indices (integers), got {array.dtype}.")
    return array.astype(np.int64)
