"""Many examples as lists -> Dataset: a tuple of Graphs whose vertices all have their own identity.

The one idea: all examples are built as one forest, so that levels cost one vectorised pass over the
file instead of one a tree, and are then taken apart into views.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, overload

import numpy as np

from ..errors import DataError, GraphError
from ..given import check_numbered
from ..graph import Graph, batch, pointers, small_graph, steps, unbatch
from .vocab import Vocab

MOST_VERTICES = 2**31 - 1
PARTS = "Read it as several data sets."


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in file order. `dataset[i]` is a Graph, `dataset[a:b]` a Dataset.

    Attributes:
        vocab: of the inputs that were tokens.
        classes: the names of the labels, where the labels were words; label k is classes[k].
        kinds: what each input was in the file: "tokens", "integers" or "numbers".
        lines: where the graphs stand in their file, where they come from one.

    Raises:
        DataError: something else than graphs.

    Examples:
        >>> import tvm_cavs as cavs
        >>> graphs = [cavs.Graph.from_sequence(n, {"word": [1] * n}) for n in (2, 3, 5)]
        >>> dataset = cavs.data.Dataset.from_graphs(graphs, name="chains")
        >>> print(dataset)
        Dataset(chains: 3 graphs, 10 vertices, inputs word)
        >>> print(dataset[:2].n_vertices, dataset.place(2, vertex=4))
        5 chains, graph 2, vertex 4
    """

    graphs: tuple[Graph, ...]
    name: str = "dataset"
    vocab: Vocab | None = None
    classes: tuple[str, ...] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "graphs", _graphs(self.graphs))

    @staticmethod
    def from_graphs(
        graphs: Iterable[Graph], name: str = "dataset", vocab: Vocab | None = None
    ) -> Dataset:
        """A Dataset of the user's own graphs; vertex_id becomes a running number over them all.

        Raises:
            GraphError: an input whose dtype or shape differs between graphs.
        """
        given = _graphs(graphs)
        if not given:
            return Dataset((), name, vocab)
        forest = batch(given)
        forest = replace(forest, vertex_id=np.arange(forest.n_vertices))
        return Dataset(tuple(unbatch(forest)), name, vocab)

    @property
    def n_vertices(self) -> int:
        """Vertices of all graphs together."""
        return sum(graph.n_vertices for graph in self.graphs)

    def __len__(self) -> int:
        return len(self.graphs)

    @overload
    def __getitem__(self, key: int) -> Graph: ...
    @overload
    def __getitem__(self, key: slice) -> Dataset: ...
    def __getitem__(self, key: int | slice) -> Graph | Dataset:
        if isinstance(key, slice):
            return replace(self, graphs=self.graphs[key], lines=self.lines[key])
        return self.graphs[key]

    def place(self, graph: int, vertex: int | None = None) -> str:
        """Where a graph, or a vertex of it, stands: "dev.jsonl, line 3, vertex 1"."""
        what = f"line {self.lines[graph]}" if self.lines else f"graph {graph}"
        return f"{self.name}, {what}" + ("" if vertex is None else f", vertex {vertex}")

    def __iter__(self) -> Iterator[Graph]:
        return iter(self.graphs)

    def __repr__(self) -> str:
        inputs = ", ".join(self.graphs[0].inputs) if self.graphs else "none"
        vocab = f", {len(self.vocab)} tokens" if self.vocab else ""
        return (
            f"Dataset({self.name}: {len(self)} graphs, {self.n_vertices} vertices, "
            f"inputs {inputs}{vocab})"
        )


def _graphs(given: Iterable[Graph]) -> tuple[Graph, ...]:
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise DataError(f"a Dataset takes a list of graphs, got {given!r:.60}.")
    graphs = tuple(given)
    if not set(map(type, graphs)) <= {Graph}:
        number, wrong = next((i, g) for i, g in enumerate(graphs) if type(g) is not Graph)
        raise DataError(
            f"a Dataset takes a list of graphs; entry {number} is {wrong!r:.60}. "
            "Make graphs with Graph.from_children and its like."
        )
    return graphs


def build_graphs(
    children: Sequence[Sequence[Sequence[int | None]]], inputs: Mapping[str, Any]
) -> tuple[Graph, ...]:
    """Many graphs at once; a hundred times faster than `Graph.from_children` for each.

    Args:
        children: for every graph, for every vertex, its children (numbered within the graph).
        inputs: one entry for every vertex of all graphs in a row: a list (None where absent), an
            array or a Field.

    Raises:
        GraphError: as `Graph.from_csr`; the message numbers the graphs from 0.

    Examples:
        >>> import tvm_cavs as cavs
        >>> children = [[[], [], [0, 1]], [[], [0]]]  # a tree and a chain
        >>> graphs = cavs.data.build_graphs(children, {"word": [7, 2, None, 5, None]})
        >>> print(graphs[1])
        Graph(1 graphs, 2 vertices, 1 edges, levels 0..1, arity 1; word: int32 at 1 of 2)
    """
    try:
        graphs = [[list(slots) for slots in graph] for graph in children]
    except TypeError as error:
        raise GraphError(
            f"children: expected for every graph and every vertex a list of its children ({error})"
        ) from error
    vertices = list(itertools.chain.from_iterable(graphs))
    child = [-1 if c is None else c for slots in vertices for c in slots]
    return build_graphs_flat(list(map(len, graphs)), list(map(len, vertices)), child, inputs)


def build_graphs_flat(
    n_vertices: Sequence[int],
    n_slots: Sequence[int],
    child: Sequence[int],
    inputs: Mapping[str, Any],
) -> tuple[Graph, ...]:
    """As `build_graphs`, from flat lists.

    Args:
        n_vertices: of every graph.
        n_slots: of every vertex.
        child: of every slot, numbered within its graph, -1 where the slot is empty.
        inputs: as in `build_graphs`.
    """
    check_numbered("vertices of a data set", len(n_slots), PARTS)
    check_numbered("slots for children of a data set", len(child), PARTS)
    _check_children(child)
    if list(n_vertices) == [len(n_slots)]:
        small = small_graph(n_slots, child, inputs)
        if small is not None:
            return (small,)
    local = np.array(child, np.int64)
    graph_ptr, child_ptr = pointers(n_vertices), pointers(n_slots)
    first = graph_ptr[:-1].repeat(steps(child_ptr[graph_ptr]))
    child_of, ids = np.where(local == -1, -1, local + first), np.arange(len(n_slots))
    forest = Graph.from_csr(child_ptr, child_of, inputs, graph_ptr, ids)
    return tuple(unbatch(forest))


def _check_children(child: Sequence[int]) -> None:
    """Refuse what is no index.

    Raises:
        GraphError: one is no index of 32 bits, so that adding to it could wrap around.
    """
    kinds = set(map(type, child))
    if any(not issubclass(kind, Integral) or issubclass(kind, bool) for kind in kinds):
        wrong = next(c for c in child if isinstance(c, bool) or not isinstance(c, Integral))
        raise GraphError(f"children: expected indices (integers) or None, given {wrong!r:.60}.")
    if len(child) and not -MOST_VERTICES <= min(child) <= max(child) <= MOST_VERTICES:
        wrong = next(c for c in child if not -MOST_VERTICES <= c <= MOST_VERTICES)
        raise GraphError(f"child {wrong!r:.60} is out of range; no graph has so many vertices.")
