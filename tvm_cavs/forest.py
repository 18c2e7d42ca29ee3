"""Graphs -> the arrays of their batch: concatenated, or gathered from the forest they are parts of.

A data set is built as one forest and taken apart into views, so a batch of its examples need not
concatenate many small arrays: it is one gather from each large one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as of_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_cavs.field import Field, join_inputs, made_field

if TYPE_CHECKING:
    from tvm_cavs.graph import Graph


@dataclass(eq=False)
class Memo:
    """What a graph remembers of its making, to save work; it is no part of the graph's meaning.

    Attributes:
        forest: where its vertices are rows `rows` of a forest.
        number: of one example of the forest.
        fields: the inputs, in the dict itself: a read-only mapping is slower to read.
        parts: the graphs that were concatenated to make it, where they were.
        digests: found by sharing.py, for each set of input names.
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
            np.diff(vertices),
            slots[:-1],
            np.diff(slots),
            bool((graph.child < 0).any()),
            bool((graph.vertex_id < 0).any()),
        )


def common_forest(graphs: Sequence[Graph]) -> Forest | None:
    """The forest of which all graphs are examples, or None."""
    forest = graphs[0].memo.forest
    if forest is None:
        return None
    for g in graphs:
        memo = g.memo
        if memo.forest is not forest or memo.number < 0:
            return None
    return forest


def select(forest: Forest, numbers: list[int]) -> tuple[np.ndarray, dict[str, Any]]:
    """The rows of some examples, int64[n_vertices], and the fields of their batch by name."""
    graph, at = forest.graph, np.array(numbers)
    n_vertices, n_slots = forest.n_vertices[at], forest.n_slots[at]
    vertex_end, slot_end = n_vertices.cumsum(), n_slots.cumsum()
    from_vertex = forest.first_vertex[at] - vertex_end + n_vertices
    from_slot = forest.first_slot[at] - slot_end + n_slots
    rows = from_vertex.repeat(n_vertices)
    rows += np.arange(len(rows))
    slots = from_slot.repeat(n_slots)
    slots += np.arange(len(slots))
    child = graph.child.take(slots)
    moved = child - from_vertex.astype(np.int32).repeat(n_slots)
    if forest.has_empty:
        moved[child < 0] = -1
    child_ptr, graph_ptr = np.zeros(len(rows) + 1, np.int32), np.zeros(len(at) + 1, np.int32)
    child_ptr[1:] = graph.child_ptr[1:].take(rows)
    child_ptr[1:] -= from_slot.astype(np.int32).repeat(n_vertices)
    graph_ptr[1:] = vertex_end
    ids = graph.vertex_id.take(rows)
    return rows, {
        "child_ptr": child_ptr,
        "child": moved,
        "level": graph.level.take(rows),
        "vertex_id": by_place(ids) if forest.has_unnamed else ids,
        "graph_ptr": graph_ptr,
        "inputs": {
            name: made_field(f.values.take(rows, axis=0), f.present.take(rows))
            for name, f in graph.inputs.items()
        },
    }


def concatenate(graphs: Sequence[Graph]) -> dict[str, Any]:
    """The fields of the batch of any graphs, by name.

    Raises:
        GraphError: an input whose dtype or shape differs between graphs.
    """
    n_vertices = [g.level.size for g in graphs]
    n_slots = [g.child.size for g in graphs]
    vertex_end, slot_end = np.cumsum(n_vertices), np.cumsum(n_slots)
    first_vertex = (vertex_end - n_vertices).astype(np.int32)
    first_slot = (slot_end - n_slots).astype(np.int32)
    child = np.concatenate([g.child for g in graphs])
    moved = child + first_vertex.repeat(n_slots)
    moved[child < 0] = -1
    child_ptr = np.zeros(int(vertex_end[-1]) + 1, np.int32)
    np.concatenate([g.child_ptr[1:] for g in graphs], out=child_ptr[1:])
    child_ptr[1:] += first_slot.repeat(n_vertices)
    n_graphs = [g.graph_ptr.size - 1 for g in graphs]
    graph_ptr = np.zeros(sum(n_graphs) + 1, np.int32)
    np.concatenate([g.graph_ptr[1:] for g in graphs], out=graph_ptr[1:])
    graph_ptr[1:] += first_vertex.repeat(n_graphs)
    return {
        "child_ptr": child_ptr,
        "child": moved,
        "level": np.concatenate([g.level for g in graphs]),
        "vertex_id": by_place(np.concatenate([g.vertex_id for g in graphs])),
        "graph_ptr": graph_ptr,
        "inputs": join_inputs([g.memo.fields for g in graphs], n_vertices),
    }


def by_place(ids: np.ndarray) -> np.ndarray:
    """The identities int64[n_vertices] of a batch, with -1 - place where they are below 0."""
    if not len(ids) or ids.min() >= 0:
        return ids
    places = np.arange(-1, -1 - len(ids), -1)
    return places if ids.max() < 0 else np.where(ids < 0, places, ids)
