"""Flat arrays of a graph -> the level of every vertex, or a message why it is not a DAG.

The one idea: a vertex is ready when its counter of unfinished children reaches zero, and all
vertices that become ready in the same round are one level. A round is vectorised; a vertex that
never becomes ready lies on or above a cycle.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..errors import GraphError

MAX_CYCLE_PRINTED = 12
FEW = 256  # entries of child_ptr


def levels(child_ptr: np.ndarray, child: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level of every vertex and the counters of unfinished children that remain.

    Args:
        child_ptr: int[n_vertices + 1]; the slots of vertex v are child_ptr[v]:child_ptr[v + 1].
        child: int[n_slots], -1 where a slot is empty; every other value is below n_vertices.

    Returns:
        level int32[n_vertices]: 0 without children, else 1 + the largest level of a child;
        waiting int32[n_vertices]: all zero exactly when there is no cycle.
    """
    if len(child_ptr) <= FEW:
        found = one_by_one(child_ptr.tolist(), child.tolist())
        return np.array(found[0], np.int32), np.array(found[1], np.int32)
    return _round_by_round(child_ptr, child)


def one_by_one(child_ptr: list[int], child: list[int]) -> tuple[list[int], list[int]]:
    """As `levels`, of so small a graph that a round costs more than all of its vertices."""
    n_vertices = len(child_ptr) - 1
    level, waiting = [0] * n_vertices, [0] * n_vertices
    parents: list[list[int]] = [[] for _ in range(n_vertices)]
    for vertex, (a, b) in enumerate(itertools.pairwise(child_ptr)):
        for below in child[a:b]:
            if below >= 0:
                parents[below].append(vertex)
                waiting[vertex] += 1
    ready = [vertex for vertex in range(n_vertices) if not waiting[vertex]]
    for vertex in ready:  # which grows meanwhile, by ascending level
        for above in parents[vertex]:
            waiting[above] -= 1
            if not waiting[above]:  # so this child is the highest
                level[above] = level[vertex] + 1
                ready.append(above)
    return level, waiting


def _round_by_round(child_ptr: np.ndarray, child: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n_vertices = len(child_ptr) - 1
    parent_ptr, parent = parents_of(child_ptr, child)
    slot_owner = np.arange(n_vertices, dtype=np.int32).repeat(steps(child_ptr))
    waiting = np.bincount(slot_owner[child >= 0], minlength=n_vertices).astype(np.int32)
    level = np.zeros(n_vertices, np.int32)
    claim = np.empty(n_vertices, np.int32)
    ready, rounds = np.flatnonzero(waiting == 0), 0
    while True:
        above = parent[ranges(parent_ptr[ready], parent_ptr[ready + 1] - parent_ptr[ready])]
        if above.size == 0:
            return level, waiting
        np.subtract.at(waiting, above, 1)
        freed = above[waiting[above] == 0]
        claim[freed] = np.arange(freed.size, dtype=np.int32)  # a parent of two is freed once
        ready = freed[claim[freed] == np.arange(freed.size)]
        rounds += 1
        level[ready] = rounds


def parents_of(child_ptr: np.ndarray, child: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transposed CSR: parents of vertex v, ascending, once per slot that v fills.

    Returns:
        parent_ptr int64[n_vertices + 1], parent int32[n_edges].
    """
    n_vertices = len(child_ptr) - 1
    slot_owner = np.arange(n_vertices, dtype=np.int32).repeat(steps(child_ptr))
    used = child >= 0
    parent = slot_owner[used][np.argsort(child[used], kind="stable")]
    parent_ptr = np.zeros(n_vertices + 1, np.int64)
    np.cumsum(np.bincount(child[used], minlength=n_vertices), out=parent_ptr[1:])
    return parent_ptr, parent


def find_cycle(child_ptr: np.ndarray, child: np.ndarray, waiting: np.ndarray) -> list[int]:
    """One cycle among the vertices that still wait, as [v, a child of v, ..., v].

    Every waiting vertex has a waiting child, so following those must come back.
    """
    vertex = int(np.flatnonzero(waiting)[0])
    place: dict[int, int] = {}
    path: list[int] = []
    while vertex not in place:
        place[vertex] = len(path)
        path.append(vertex)
        slots = child[child_ptr[vertex] : child_ptr[vertex + 1]]
        slots = slots[slots >= 0]
        vertex = int(slots[waiting[slots] > 0][0])
    return path[place[vertex] :] + [vertex]


def print_cycle(cycle: list[int]) -> str:
    """The cycle as text, "3 -> 7 -> 3"; the middle of a long one is left out."""
    if len(cycle) <= MAX_CYCLE_PRINTED:
        return " -> ".join(map(str, cycle))
    half = MAX_CYCLE_PRINTED // 2
    left_out = len(cycle) - 2 * half
    head, tail = map(str, cycle[:half]), map(str, cycle[-half:])
    return " -> ".join([*head, f"... ({left_out} more) ...", *tail])


def steps(ends: np.ndarray) -> np.ndarray:
    """From each entry to the next: as `np.diff`, whose checks cost more than a small graph's."""
    return ends[1:] - ends[:-1]


def pointers(lengths: Sequence[int]) -> np.ndarray:
    """Where things of these lengths begin that lie one after the other, and the end of the last:
    int64[len(lengths) + 1].
    """
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.asarray(lengths, np.int64).cumsum(out=ends[1:])
    return ends


def ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The numbers start:start + count of all entries, one after the other: int64[sum of count]."""
    end = count.cumsum()
    numbers: np.ndarray = (start - end + count).repeat(count)
    numbers += np.arange(len(numbers))
    return numbers


def check_pointers(child_ptr: np.ndarray, child: np.ndarray, graph_ptr: np.ndarray) -> None:
    """Both pointer arrays rise from 0 to their end, and no example is empty.

    Raises:
        GraphError: otherwise.
    """
    n_vertices = len(child_ptr) - 1
    empty = np.flatnonzero(steps(graph_ptr) <= 0)
    if empty.size or n_vertices < 1 or len(graph_ptr) < 2:
        number = empty[0] if empty.size else 0  # all are, where there is no vertex at all
        where = f"graph {number} of the batch" if len(graph_ptr) > 2 else "the graph"
        raise GraphError(f"{where} is empty; expected at least one vertex.")
    for name, ptr, end in (
        ("child_ptr", child_ptr, len(child)),
        ("graph_ptr", graph_ptr, n_vertices),
    ):
        if ptr[0] != 0 or ptr[-1] != end:
            raise GraphError(f"{name} must rise from 0 to {end}, got {ptr[0]} to {ptr[-1]}.")
    for v in np.flatnonzero((steps(child_ptr) < 0) | (child_ptr[1:] > len(child)))[:1]:
        raise GraphError(
            f"{vertex_name(graph_ptr, v)}: child_ptr must rise from 0 to {len(child)}, and goes "
            f"from {child_ptr[v]} to {child_ptr[v + 1]}."
        )


def check_children(child_ptr: np.ndarray, child: np.ndarray, graph_ptr: np.ndarray) -> None:
    """Children stay inside their example and are not their own parent.

    Raises:
        GraphError: otherwise; it names the vertex and the slot.
    """
    n_of_graph, n_slots = steps(graph_ptr), steps(np.asarray(child_ptr)[graph_ptr])
    first = graph_ptr[:-1].repeat(n_slots)
    outside = (child < first) & (child != -1) | (child >= first + n_of_graph.repeat(n_slots))
    owner = np.arange(len(child_ptr) - 1).repeat(steps(child_ptr))
    for slot in np.flatnonzero(outside | (child == owner))[:1]:
        vertex = int(owner[slot])
        where, number = vertex_name(graph_ptr, vertex), slot - child_ptr[vertex]
        if child[slot] == vertex:
            raise GraphError(f"{where} is its own child (self-loop in slot {number}).")
        g = int(np.searchsorted(graph_ptr, vertex, "right")) - 1
        raise GraphError(
            f"{where}: child {child[slot] - graph_ptr[g]} in slot {number} is out of range; "
            f"expected 0..{n_of_graph[g] - 1}, or None (-1) for an empty slot."
        )


def levels_or_cycle(child_ptr: np.ndarray, child: np.ndarray, graph_ptr: np.ndarray) -> np.ndarray:
    """int32[n_vertices] levels.

    Raises:
        GraphError: there is a cycle; it is printed.
    """
    level, waiting = levels(child_ptr, child)
    if waiting.any():
        cycle = np.asarray(find_cycle(child_ptr, child, waiting))
        g = int(np.searchsorted(graph_ptr, cycle[0], "right")) - 1
        where = f"graph {g} of the batch" if len(graph_ptr) > 2 else "the graph"
        raise GraphError(
            f"{where} has a cycle: {print_cycle((cycle - graph_ptr[g]).tolist())} "
            "(vertex -> its child). Expected a directed acyclic graph."
        )
    return level


def check_levels(
    child_ptr: np.ndarray, child: np.ndarray, graph_ptr: np.ndarray, level: np.ndarray
) -> None:
    """Every level is 0 without children, else 1 + the largest of a child: then there is no cycle.

    Raises:
        GraphError: otherwise; a cycle is printed.
    """
    n_vertices, used = len(child_ptr) - 1, child >= 0
    want = np.zeros(n_vertices, np.int32)
    if level.shape == want.shape:
        owner = np.arange(n_vertices).repeat(steps(child_ptr))
        np.maximum.at(want, owner[used], level[child[used]] + np.int32(1))
        if (want == level).all():
            return
    right = levels_or_cycle(child_ptr, child, graph_ptr)
    wrong = np.flatnonzero(level != right) if level.shape == right.shape else [0]
    where = vertex_name(graph_ptr, int(wrong[0]))
    raise GraphError(f"{where}: the stored level is wrong. Make graphs with a constructor.")


def vertex_name(graph_ptr: np.ndarray, vertex: int) -> str:
    """vertex 3, or in a batch: graph 2 of the batch, vertex 3 (numbered within its graph)."""
    if len(graph_ptr) == 2:
        return f"vertex {vertex}"
    g = int(np.searchsorted(graph_ptr, vertex, "right")) - 1
    return f"graph {g} of the batch, vertex {vertex - graph_ptr[g]}"
