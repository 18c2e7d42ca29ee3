"""Graphs -> their batch, and back: the verbs that users know.

A data set is built as one forest and taken apart into views, so a batch of its examples need not
concatenate many small arrays: it is one gather from each large one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from ..given import as_list, check_numbered
from .field import join_inputs, made_field
from .graph import Forest, Graph, by_place, made_graph

SMALLER = "Give fewer graphs."


def batch(graphs: Iterable[Graph]) -> Graph:
    """Concatenate graphs into one Graph, in the order given; level and vertex_id are kept.

    Vertices without an identity of their own get one by their place in the batch.

    Raises:
        GraphError: no graphs, or an input whose dtype or shape differs between graphs.

    Examples:
        >>> import tvm_cavs as cavs
        >>> tree = cavs.Graph.from_children([[], [], [0, 1]])
        >>> chain = cavs.Graph.from_sequence(2)
        >>> both = cavs.batch([tree, chain])
        >>> print(both.graph_ptr, both.child)
        [0 3 5] [0 1 3]
    """
    if type(graphs) is list and len(graphs) == 1 and type(graphs[0]) is Graph:
        return graphs[0]
    given = graphs if isinstance(graphs, list) else _as_graphs(graphs)
    if not given:
        raise GraphError("batch got no graphs; expected at least one.")
    try:
        return _joined(given) if len(given) > 1 else _as_graphs(given)[0]
    except AttributeError:
        _as_graphs(given)  # says which is no graph
        raise


def _joined(graphs: list[Graph]) -> Graph:
    forest = common_forest(graphs)
    if forest is not None:
        rows, arrays = select(forest, [g.memo.number for g in graphs])
        made = made_graph(**arrays)
        made.memo.forest, made.memo.rows = forest, rows
        return made
    made = made_graph(**concatenate(graphs))
    made.memo.parts = tuple(graphs)
    return made


def _as_graphs(given: Any) -> list[Graph]:
    if isinstance(given, Graph):
        raise GraphError("batch: expected a list of Graphs, given a Graph. Give [graph].")
    graphs = as_list("batch", given, "Graphs")
    for i, graph in enumerate(graphs):
        if not isinstance(graph, Graph):
            raise GraphError(
                f"batch: item {i} is no Graph but {type(graph).__name__} {graph!r:.60}. "
                "Make one by Graph.from_children, from_parents, from_edges or from_sequence."
            )
    return graphs


def unbatch(graph: Graph) -> list[Graph]:
    """The examples of a batch, each a Graph of its own: the inverse of `batch` (views)."""
    forest, examples = Forest.of(graph), []
    first_vertex, n_vertices = forest.first_vertex, forest.n_vertices
    child = graph.child - first_vertex.astype(np.int32).repeat(forest.n_slots)
    child[graph.child < 0] = -1
    ids = graph.vertex_id
    if forest.has_unnamed:
        ids = np.where(ids < 0, ids + first_vertex.repeat(n_vertices), ids)
    bounds = graph.graph_ptr.tolist()
    slots = graph.child_ptr[graph.graph_ptr].tolist()
    for g, (a, b) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        example = made_graph(
            graph.child_ptr[a : b + 1] - np.int32(slots[g]),
            child[slots[g] : slots[g + 1]],
            graph.level[a:b],
            ids[a:b],
            np.array([0, b - a], np.int32),
            {k: made_field(f.values[a:b], f.present[a:b]) for k, f in graph.inputs.items()},
        )
        memo = example.memo
        memo.forest, memo.rows, memo.number = forest, slice(a, b), g
        examples.append(example)
    return examples


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
    check_size(vertex_end, slot_end)
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


def check_size(vertex_end: np.ndarray, slot_end: np.ndarray) -> None:
    """Refuses a batch whose vertices or slots cannot be numbered, before it is built.

    Args:
        vertex_end, slot_end: int64[n_graphs], how many there are up to the end of each graph.

    Raises:
        GraphError: there are more than 2^31 - 1.
    """
    check_numbered("vertices of a batch", int(vertex_end[-1]), SMALLER)
    check_numbered("slots for children of a batch", int(slot_end[-1]), SMALLER)


def concatenate(graphs: Sequence[Graph]) -> dict[str, Any]:
    """The fields of the batch of any graphs, by name.

    Raises:
        GraphError: an input whose dtype or shape differs between graphs.
    """
    n_vertices = [g.level.size for g in graphs]
    n_slots = [g.child.size for g in graphs]
    vertex_end, slot_end = np.cumsum(n_vertices), np.cumsum(n_slots)
    check_size(vertex_end, slot_end)
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
